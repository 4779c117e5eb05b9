# SD-NKD: cross entropy + SDD, which grows over the first 20 epochs. Other
# gamma and tau than NKD's own; some pairs have another gamma. As in nkd.py,
# the target class stays in the second term.
_base_ = ['sdd.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_sdd=dict(
                base_loss=dict(
                    type='NKDLoss', gamma=8.0, tau=4.0, mask_target=False
                ),
                loss_weight=dict(type='LinearWarmup', value=1.0, end=20),
            )
        )
    ),
)

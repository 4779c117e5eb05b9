# SD-KD: 0.1 cross entropy + 0.9 SDD, without a warm-up (the paper names one,
# the code has none).
_base_ = ['sdd.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=0.1))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_sdd=dict(
                base_loss=dict(type='KLDivergence', tau=4.0), loss_weight=0.9
            )
        )
    ),
)

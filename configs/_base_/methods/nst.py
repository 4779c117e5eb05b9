# NST with the polynomial kernel, as in RepDistiller: 50 at each of the three
# stages.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.all_stages,
        distill_losses={
            f'loss_nst{i}': dict(type='NSTLoss', loss_weight=50.0)
            for i in (1, 2, 3)
        },
        loss_forward_mappings={
            f'loss_nst{i}': _base_.preds[f'stage{i}'] for i in (1, 2, 3)
        },
    )
)

# AT as in RepDistiller and mdistiller: 1000 at each of the three stages.
_base_ = ['features.py']

model = dict(
    distiller=dict(
        **_base_.all_stages,
        distill_losses={
            f'loss_at{i}': dict(type='ATLoss', p=2.0, loss_weight=1000.0)
            for i in (1, 2, 3)
        },
        loss_forward_mappings={
            f'loss_at{i}': _base_.preds[f'stage{i}'] for i in (1, 2, 3)
        },
    )
)

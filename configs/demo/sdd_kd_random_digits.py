# SDD on randomly chosen glyphs, beside kd_random_digits.py. The last map is
# 2x2 here, and there are no labels.
_base_ = ['_student_.py']

_maps = dict(type='LogitMapOutputs')
model = dict(
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(maps=_maps),
        teacher_recorders=dict(maps=_maps),
        distill_losses=dict(
            loss_sdd=dict(
                type='SDDLoss',
                base_loss=dict(type='KLDivergence', tau=4.0),
                scales=(1, 2),
                weight_rule='teacher_global',
            )
        ),
        loss_forward_mappings=dict(
            loss_sdd=dict(
                preds_S=dict(from_student=True, recorder='maps'),
                preds_T=dict(from_student=False, recorder='maps'),
            )
        ),
    )
)
train_dataloader = dict(
    sampler=dict(type='RandomSubsetSampler', num_samples=_base_.num_samples)
)
trained_on = '2,000 random glyphs'

# What sdd_kd.py, sdd_dkd.py and sdd_nkd.py share: SDD as in its repository,
# whose nested pooling starts from a 4x4 grid whatever the scales.
_maps = dict(type='LogitMapOutputs', grid_size=4)
model = dict(
    type='SingleTeacherDistill',
    channels_last=True,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(maps=_maps),
        teacher_recorders=dict(maps=_maps),
        distill_losses=dict(
            loss_sdd=dict(
                type='SDDLoss', scales=(1, 2, 4), weight_rule='label'
            )
        ),
        loss_forward_mappings=dict(
            loss_sdd=dict(
                preds_S=dict(from_student=True, recorder='maps'),
                preds_T=dict(from_student=False, recorder='maps'),
                gt_labels=dict(from_batch='gt_label'),
            )
        ),
    ),
)

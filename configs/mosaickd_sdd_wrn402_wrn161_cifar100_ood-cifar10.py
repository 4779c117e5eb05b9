# SDD in MosaicKD: the student learns from the teacher's logits on regions of
# synthetic and out-of-domain images. No paper has this combination, so there
# is no number to reproduce. Without labels, a region is weighted by the class
# that the teacher gives to the whole image.
_base_ = ['mosaickd_wrn402_wrn161_cifar100_ood-cifar10.py']

_maps = dict(type='LogitMapOutputs', grid_size=4)
model = dict(
    distiller=dict(
        _delete_=True,
        type='ConfigurableDistiller',
        student_recorders=dict(maps=_maps),
        teacher_recorders=dict(maps=_maps),
        distill_losses=dict(
            loss_sdd=dict(
                type='SDDLoss',
                # MosaicKD's.
                base_loss=dict(type='KLDivergence', tau=1.0),
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

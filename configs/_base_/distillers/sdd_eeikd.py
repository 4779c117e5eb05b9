# EEIKD whose logits are compared by SDD. Without labels, a region is weighted
# by the class that the teacher gives to the whole image; its own lowest
# classes are masked, not those of the image.
_base_ = ['eeikd.py']

_base_.distiller.distill_losses.pop('loss_kl')
_base_.distiller.loss_forward_mappings.pop('loss_kl')
_maps = dict(type='LogitMapOutputs', grid_size=4)
distiller = dict(
    student_recorders=dict(maps=_maps),
    teacher_recorders=dict(maps=_maps),
    distill_losses=dict(
        loss_sdd=dict(
            type='SDDLoss',
            base_loss=dict(type='KLDivergence', tau=4.0),
            weight_rule='teacher_global',
            teacher_connector=dict(type='ClassDropMask', drop_ratio=0.5),
        )
    ),
    loss_forward_mappings=dict(
        loss_sdd=dict(
            preds_S=dict(from_student=True, recorder='maps'),
            preds_T=dict(from_student=False, recorder='maps'),
        )
    ),
)

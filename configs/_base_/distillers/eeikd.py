# EEIKD for a pair of equal widths: masked targets, features after the first
# batch norm and before the last linear layer, relations of the samples.
# The temperature is that of DFND's code, whose setting the paper follows; the
# share of dropped classes and the weights of features (lambda1) and relations
# (lambda2) are our choice: the paper's values are unknown.
_recorders = dict(
    logits=dict(type='ModuleOutputs', source='head.fc'),
    front=dict(type='ModuleOutputs', source='backbone.bn1'),
    back=dict(type='ModuleInputs', source='head.fc'),
)
_logits = dict(
    preds_S=dict(from_student=True, recorder='logits'),
    preds_T=dict(from_student=False, recorder='logits', connector='mask'),
)
lambda1 = 1.0
lambda2 = 1.0
distiller = dict(
    type='ConfigurableDistiller',
    student_recorders=_recorders,
    teacher_recorders=_recorders,
    connectors=dict(mask=dict(type='ClassDropMask', drop_ratio=0.5)),
    distill_losses=dict(
        loss_kl=dict(type='KLDivergence', tau=4.0),
        loss_front=dict(type='L1Loss', loss_weight=lambda1),
        loss_back=dict(type='L1Loss', loss_weight=lambda1),
        loss_relation=dict(
            type='StructuredRelationLoss',
            space='prob',
            tau=4.0,
            loss_weight=lambda2,
        ),
    ),
    loss_forward_mappings=dict(
        loss_kl=_logits,
        loss_relation=_logits,
        loss_front=dict(
            preds_S=dict(from_student=True, recorder='front'),
            preds_T=dict(from_student=False, recorder='front'),
        ),
        loss_back=dict(
            preds_S=dict(from_student=True, recorder='back', data_idx=0),
            preds_T=dict(from_student=False, recorder='back', data_idx=0),
        ),
    ),
)

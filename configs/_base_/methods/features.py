# What the methods on features share: CIFAR ResNets and WRNs with three stages.
# Cross entropy has the weight 1, unless a method says otherwise.
_stages = {
    f'stage{i}': dict(type='ModuleOutputs', source=f'backbone.layer{i}')
    for i in (1, 2, 3)
}
# The input of the last layer: the pooled map of the last stage.
_pooled = dict(pooled=dict(type='ModuleInputs', source='head.fc'))
stages = {
    name: dict(student_recorders={name: tap}, teacher_recorders={name: tap})
    for name, tap in _stages.items()
}
all_stages = dict(student_recorders=_stages, teacher_recorders=_stages)
pooled = dict(student_recorders=_pooled, teacher_recorders=_pooled)
preds = {
    name: dict(
        preds_S=dict(from_student=True, recorder=name),
        preds_T=dict(from_student=False, recorder=name),
    )
    for name in _stages
}
pooled_preds = dict(
    preds_S=dict(from_student=True, recorder='pooled', data_idx=0),
    preds_T=dict(from_student=False, recorder='pooled', data_idx=0),
)
model = dict(
    type='SingleTeacherDistill',
    channels_last=True,
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(type='ConfigurableDistiller'),
)

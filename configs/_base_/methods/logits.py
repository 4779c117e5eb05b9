# What kd.py, dkd.py and nkd.py share: they compare the logits of the images.
_logits = dict(type='ModuleOutputs', source='head.fc')
model = dict(
    type='SingleTeacherDistill',
    channels_last=True,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(logits=_logits),
        teacher_recorders=dict(logits=_logits),
    ),
)
preds = dict(
    preds_S=dict(from_student=True, recorder='logits'),
    preds_T=dict(from_student=False, recorder='logits'),
)

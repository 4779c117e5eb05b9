# CS-KD with the setting of its code: an image is answered as another one of
# its class, which has a forward pass of its own. What builds on this gives the
# SameClassPairSampler.
_logits = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
model = dict(
    type='CSKD',
    channels_last=True,
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        type='ConfigurableDistiller',
        # The student on the first images of the pairs, and on the second ones.
        student_recorders=_logits,
        teacher_recorders=_logits,
        distill_losses=dict(
            loss_cskd=dict(type='CSKDLoss', tau=4.0, loss_weight=1.0)
        ),
        loss_forward_mappings=dict(
            loss_cskd=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    ),
)

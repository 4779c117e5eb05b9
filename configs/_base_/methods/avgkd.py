# Several teachers, averaged, with the setting that CA-MKD's code compares
# with: cross entropy + KL at temperature 4, each with a weight of 1. That code
# averages the divergences; from the mean of the probabilities the student has
# the same gradient. What builds on this gives the teachers, and the mapping.
model = dict(
    type='MultiTeacherDistill',
    channels_last=True,
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        connectors=dict(mean=dict(type='AverageProbabilities', tau=4.0)),
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=4.0, loss_weight=1.0)
        ),
    ),
)

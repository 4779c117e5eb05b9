# The baseline: plain KD on randomly chosen glyphs.
_base_ = ['_student_.py']

model = dict(
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc')
        ),
        distill_losses=dict(loss_kl=dict(type='KLDivergence', tau=4.0)),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(from_student=False, recorder='logits'),
            )
        ),
    )
)
train_dataloader = dict(
    sampler=dict(
        type='AdaptiveThresholdSampler',
        num_samples=_base_.num_samples,
        gamma=0.999,
        order='random',
    )
)
trained_on = '2,000 random glyphs'

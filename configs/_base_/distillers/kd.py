# Response distillation: KL divergence of the softened logits.
distiller = dict(
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

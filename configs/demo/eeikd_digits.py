# EEIKD: selected glyphs, masked classes, features and relations.
_base_ = ['_student_.py']

# The student's maps are half as wide as the teacher's, so the features pass
# through learned connectors.
_logits = dict(type='ModuleOutputs', source='head.fc')
_front = dict(type='ModuleOutputs', source='backbone.bn1')
_back = dict(type='ModuleInputs', source='head.fc')
_recorders = dict(logits=_logits, front=_front, back=_back)
# Chosen on the digits' split 'val', as are gamma and the number of dropped
# classes.
lambda1 = 0.2
lambda2 = 5.0
model = dict(
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=_recorders,
        teacher_recorders=_recorders,
        connectors=dict(
            mask=dict(type='ClassDropMask', num_dropped=2),
            front=dict(type='ConvConnector', in_channels=8, out_channels=16),
            back=dict(
                type='LinearConnector', in_channels=64, out_channels=128
            ),
        ),
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=4.0),
            loss_front=dict(type='L1Loss', loss_weight=lambda1),
            loss_back=dict(type='L1Loss', loss_weight=lambda1),
            loss_relation=dict(
                type='StructuredRelationLoss', tau=4.0, loss_weight=lambda2
            ),
        ),
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(
                    from_student=False, recorder='logits', connector='mask'
                ),
            ),
            loss_front=dict(
                preds_S=dict(
                    from_student=True, recorder='front', connector='front'
                ),
                preds_T=dict(from_student=False, recorder='front'),
            ),
            loss_back=dict(
                preds_S=dict(
                    from_student=True,
                    recorder='back',
                    data_idx=0,
                    connector='back',
                ),
                preds_T=dict(from_student=False, recorder='back', data_idx=0),
            ),
            loss_relation=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(
                    from_student=False, recorder='logits', connector='mask'
                ),
            ),
        ),
    )
)
train_dataloader = dict(
    sampler=dict(
        type='AdaptiveThresholdSampler',
        num_samples=_base_.num_samples,
        gamma=0.35,
    )
)
trained_on = '2,000 glyphs selected by the adaptive threshold'

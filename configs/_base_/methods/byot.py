# BYOT: an exit behind each stage but the deepest, which learns from the labels
# (0.7), from the deepest's answers (0.3, temperature 3) and from its pooled
# feature; the deepest learns from the labels alone, with the weight 1. The
# paper does not give the weights. These are MMRazor's; an unofficial code has
# 0.9, for the deepest as well, and 0.1.
# That of the features is the 1e-6 of that code
# (luanyunteng/pytorch-be-your-own-teacher) for their squared distance, summed
# over 128 images of 512 channels, as a mean.
_label, _soft, _feature = 0.7, 0.3, 1e-6 * 128 * 512

# Of ResNet-18 and ResNet-34. Another network sets others.
_channels = {1: 64, 2: 128, 3: 256}
_deepest = 512


def _exit(i, part):
    # The connector returns the feature and the logits.
    return dict(
        from_student=True,
        recorder=f'stage{i}',
        connector=f'exit{i}',
        connector_idx=('feature', 'logits').index(part),
    )


model = dict(
    type='SelfDistill',
    channels_last=True,
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='head.fc'),
            feature=dict(type='ModuleInputs', source='head.fc'),
            **{
                f'stage{i}': dict(
                    type='ModuleOutputs', source=f'backbone.layer{i}'
                )
                for i in _channels
            },
        ),
        connectors={
            f'exit{i}': dict(
                type='BYOTConnector',
                in_channels=channels,
                out_channels=_deepest,
                num_classes=100,
                num_halvings=4 - i,
            )
            for i, channels in _channels.items()
        },
        distill_losses={
            f'loss_{name}{i}': dict(loss)
            for i in _channels
            for name, loss in dict(
                label=dict(type='CrossEntropyLoss', loss_weight=_label),
                soft=dict(type='KLDivergence', tau=3.0, loss_weight=_soft),
                feature=dict(type='MSELoss', loss_weight=_feature),
            ).items()
        },
        loss_forward_mappings={
            f'loss_{name}{i}': mapping
            for i in _channels
            for name, mapping in dict(
                label=dict(
                    cls_score=_exit(i, 'logits'),
                    label=dict(from_batch='gt_label'),
                ),
                soft=dict(
                    preds_S=_exit(i, 'logits'),
                    preds_T=dict(from_student=True, recorder='logits'),
                ),
                feature=dict(
                    preds_S=_exit(i, 'feature'),
                    preds_T=dict(
                        from_student=True, recorder='feature', data_idx=0
                    ),
                ),
            ).items()
        },
    ),
)

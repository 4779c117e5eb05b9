# FT, first of two trainings: the paraphraser learns to reconstruct the last
# map of the teacher, a ResNet-32x4 on CIFAR-100, by the released L1 distance.
# Rate and length are those of the students here: RepDistiller has 0.01 and the
# squared distance. Then ft_r32x4_r8x4_cifar100.py.
_base_ = ['_base_/first_training.py', '_base_/methods/features.py']

_map = dict(from_student=False, recorder='stage3')
model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    # It only stands by.
    student=_base_.networks.r8x4,
    student_trainable=False,
    calculate_student_loss=False,
    distiller=dict(
        teacher_recorders=_base_.stages.stage3.teacher_recorders,
        connectors=dict(
            paraphraser=dict(
                type='ParaphraserConnector', in_channels=256, out_channels=128
            )
        ),
        distill_losses=dict(loss_paraphrase=dict(type='L1Loss')),
        loss_forward_mappings=dict(
            loss_paraphrase=dict(
                preds_S=dict(**_map, connector='paraphraser', connector_idx=1),
                preds_T=_map,
            )
        ),
    ),
)
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]

# A teacher assistant, first of two stages: KD from ResNet-32x4 to the
# assistant, ResNet-20x4, on CIFAR-100. Then takd_r20x4_r8x4_cifar100.py, and
# with more assistants further stages of that kind.
#
# Mirzadeh et al., Improved Knowledge Distillation via Teacher Assistant, AAAI
# 2020. This is its chain with KD as it is elsewhere here: weights and
# temperature, which the paper searches, the training and the networks are
# ours. (The paper's code has ResNet-20 between 110 and 8 as an example,
# averages the divergence over the classes as well, which is a hundredth of it
# on CIFAR-100, and goes on from the assistant's best epoch, not the last.)
_base_ = ['_base_/pairs_cifar100.py', '_base_/methods/kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.r32x4,
    teacher_ckpt=_base_.teachers.r32x4.ckpt,
    student=_base_.networks.r20x4,
)
# The assistant alone, as the teacher of the next stage.
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='SnapshotHook', epochs=(240,)),
]
required_inputs = [_base_.teachers.r32x4.need, *_base_.required_inputs]

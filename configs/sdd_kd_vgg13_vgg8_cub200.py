# SD-KD: VGG-13 to VGG-8 on CUB-200. 67.32 in SDD's table; the authors' run:
# 68.83.
_base_ = ['_base_/pairs_cub200.py', '_base_/methods/sdd_kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.networks.vgg13,
    teacher_ckpt=_base_.teachers.vgg13.ckpt,
    student=_base_.networks.vgg8,
)
required_inputs = [_base_.teachers.vgg13.need, *_base_.required_inputs]

# Reference: plain KD on the original data. Weights 0.1 and 0.9, temperature
# 4, 240 epochs with tenths at 150, 180 and 210, as in the CIFAR recipe of
# RepDistiller and mdistiller.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/kd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.resnet34,
    teacher_ckpt='work_dirs/resnet34_cifar100/epoch_200.pth',
    student=_base_.resnet18,
)
required_inputs = [_base_.need_teacher, *_base_.required_inputs]

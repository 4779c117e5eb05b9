# ResNet-34 teaches ResNet-18 about CIFAR-100 with unlabeled images.
_base_ = ['default_runtime.py', 'cifar100.py', 'unlabeled_32px.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.resnet34,
    teacher_ckpt='work_dirs/resnet34_cifar100/epoch_200.pth',
    student=_base_.resnet18,
)
required_inputs = [
    _base_.need_teacher,
    _base_.need_unlabeled,
    _base_.need_test_data,
]

# The second generation of a born-again ResNet-18 on CIFAR-100. The first is
# trained in the same way, without a teacher. The schedule is that of the other
# CIFAR configs. The third generation:
#
#   python tools/export_student.py configs/ban_r18_cifar100.py \
#       work_dirs/ban_r18_cifar100/epoch_240.pth \
#       work_dirs/ban_r18_cifar100/student.pth
#   python tools/train.py configs/ban_r18_cifar100.py \
#       --work-dir work_dirs/ban_r18_cifar100_3 --cfg-options \
#       model.teacher_ckpt=work_dirs/ban_r18_cifar100/student.pth
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/ban.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.resnet18,
    teacher_ckpt='work_dirs/resnet18_cifar100/epoch_240.pth',
    student=_base_.resnet18,
)
required_inputs = [
    dict(
        key='model.teacher_ckpt',
        make='python tools/train.py configs/teachers/resnet18_cifar100.py',
    ),
    *_base_.required_inputs,
]

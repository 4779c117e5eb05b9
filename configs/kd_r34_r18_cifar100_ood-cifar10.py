# Baseline of MosaicKD: plain KD, ResNet-34 to ResNet-18 without CIFAR-100, on
# the images of CIFAR-10. Published: 73.55.
_base_ = ['_base_/kd_ood.py', '_base_/ood/cifar10.py']

model = dict(
    teacher=_base_.resnet34,
    teacher_ckpt='work_dirs/resnet34_cifar100/epoch_200.pth',
    student=_base_.resnet18,
)
train_dataloader = dict(dataset=_base_.ood_images, sampler=_base_.ood_sampler)
required_inputs = [
    _base_.need_teacher,
    _base_.need_ood,
    _base_.need_test_data,
]
trained_on = 'CIFAR-10 without labels'

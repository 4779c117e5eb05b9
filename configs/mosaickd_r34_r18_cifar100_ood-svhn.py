# MosaicKD: ResNet-34 to ResNet-18 without CIFAR-100, with images of SVHN.
# Published: 47.18.
# By patches of which size is not known: the paper is said to speak of 4.
_base_ = ['_base_/mosaickd.py', '_base_/ood/svhn.py']

model = dict(
    # As published: digits are not mirrored, nor is anything else done.
    data_preprocessor=dict(augments=[]),
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

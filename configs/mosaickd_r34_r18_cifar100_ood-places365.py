# MosaicKD: ResNet-34 to ResNet-18 without CIFAR-100, with images of Places365.
# Published: 74.70.
_base_ = ['_base_/mosaickd.py', '_base_/ood/places365.py']

model = dict(
    teacher=_base_.resnet34,
    teacher_ckpt='work_dirs/resnet34_cifar100/epoch_200.pth',
    student=_base_.resnet18,
)
train_dataloader = dict(
    dataset=_base_.ood_images,
    sampler=dict(
        **_base_.ood_sampler,
        # Scores of the teacher, for later runs and other students.
        cache_file='work_dirs/resnet34_cifar100/scores_places365.npz',
    ),
)
required_inputs = [
    _base_.need_teacher,
    _base_.need_ood,
    _base_.need_test_data,
]

# MosaicKD: WRN-40-2 to WRN-16-1 without CIFAR-100, with images of Places365.
# Published: 56.70.
_base_ = ['_base_/mosaickd.py', '_base_/ood/places365.py']

model = dict(
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt=_base_.teachers.wrn40_2.ckpt,
    student=_base_.networks.wrn16_1,
)
train_dataloader = dict(
    dataset=_base_.ood_images,
    sampler=dict(
        **_base_.ood_sampler,
        # Scores of the teacher, for later runs and other students.
        cache_file='work_dirs/wrn40_2_cifar100/scores_places365.npz',
    ),
)
required_inputs = [
    _base_.teachers.wrn40_2.need,
    _base_.need_ood,
    _base_.need_test_data,
]

# MosaicKD: WRN-40-2 to WRN-16-1 without CIFAR-100, with images of SVHN.
# Published: 31.87.
# By patches of which size is not known: the paper is said to speak of 4.
_base_ = ['_base_/mosaickd.py', '_base_/ood/svhn.py']

model = dict(
    # As published: digits are not mirrored, nor is anything else done.
    data_preprocessor=dict(augments=[]),
    teacher=_base_.networks.wrn40_2,
    teacher_ckpt=_base_.teachers.wrn40_2.ckpt,
    student=_base_.networks.wrn16_1,
)
train_dataloader = dict(dataset=_base_.ood_images, sampler=_base_.ood_sampler)
required_inputs = [
    _base_.teachers.wrn40_2.need,
    _base_.need_ood,
    _base_.need_test_data,
]

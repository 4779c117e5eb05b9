# Baseline of MosaicKD: plain KD, WRN-40-2 to WRN-16-1 without CIFAR-100, on
# the images of CIFAR-10. Published: 47.47.
_base_ = ['_base_/kd_ood.py', '_base_/ood/cifar10.py']

model = dict(
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
trained_on = 'CIFAR-10 without labels'

# The teacher: ResNet-50 with ImageNet's weights learns objects of VOC 2012.
_base_ = ['kp_r50_voc2012_baseline.py']

model = dict(backbone=dict(init_cfg=_base_.imagenet))
optim_wrapper = dict(optimizer=dict(lr=_base_.fine_tuning_lr))
# Its course is not looked at.
custom_hooks = _base_.custom_hooks[:-2]
required_inputs = [_base_.imagenet_input, *_base_.required_inputs]

# The teacher: VGG-16 with ImageNet's weights learns CUB-200-2011.
_base_ = ['kp_vgg16_cub200_baseline.py']

model = dict(backbone=dict(init_cfg=_base_.imagenet))
optim_wrapper = dict(optimizer=dict(lr=_base_.fine_tuning_lr))
# Its course is not looked at.
custom_hooks = _base_.custom_hooks[:-2]
required_inputs = [_base_.imagenet_input, *_base_.required_inputs]

# The baseline: VGG-16 learns CUB-200-2011 from labels alone.
_base_ = ['_base_/kp_cub200.py', '_base_/kp_vgg16.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    backbone=dict(num_classes=_base_.num_classes),
)
custom_hooks = [*_base_.custom_hooks, *_base_.course]

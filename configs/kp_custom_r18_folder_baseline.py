# The baseline: ResNet-18 learns your images from labels alone.
_base_ = ['_base_/kp_folder.py', '_base_/kp_r18.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    head=dict(num_classes=_base_.num_classes),
)
custom_hooks = [*_base_.custom_hooks, *_base_.course]

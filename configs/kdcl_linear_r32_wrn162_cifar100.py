# KDCL: ResNet-32 and WRN-16-2 on CIFAR-100; the target is the convex
# combination of the logits with the lowest cross entropy.
_base_ = ['_base_/online_cifar100.py', '_base_/methods/kdcl.py']

model = dict(
    target='linear',
    data_preprocessor=dict(**_base_.preprocessor, views=2),
    students=dict(r32=_base_.networks.r32, wrn16_2=_base_.networks.wrn16_2),
)

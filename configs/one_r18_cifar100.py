# ONE: ResNet-18 with three branches on CIFAR-100. Not in the paper; the
# schedule is that of ResNet-32, the weight decay the default of the code.
_base_ = ['one_r32_cifar100.py']

model = dict(
    student=dict(_delete_=True, **_base_.resnet18),
    branch_from='backbone.layer4',
)
optim_wrapper = dict(optimizer=dict(weight_decay=5e-4))

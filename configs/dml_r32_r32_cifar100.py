# DML: two ResNet-32 on CIFAR-100. The schedule is that of the other benchmarks
# here, not the paper's.
_base_ = ['_base_/online_cifar100.py', '_base_/methods/dml.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    students=dict(r32_a=_base_.networks.r32, r32_b=_base_.networks.r32),
)

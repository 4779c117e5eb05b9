# DML: a ResNet-18 and a ResNet-32 on CIFAR-100. The schedule is that of the
# other benchmarks here, not the paper's.
_base_ = ['_base_/online_cifar100.py', '_base_/methods/dml.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    students=dict(r18=_base_.resnet18, r32=_base_.networks.r32),
)

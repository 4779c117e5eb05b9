# The first generation of born-again networks: ResNet-18 on CIFAR-100.
_base_ = ['../_base_/benchmark_cifar100.py']

model = dict(**_base_.resnet18, data_preprocessor=_base_.preprocessor)

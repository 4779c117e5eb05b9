# CIFAR-100 for evaluation, and what its networks have in common.
_base_ = ['cifar.py']

preprocessor = dict(
    # RGB statistics of the training set, as in mmpretrain.
    mean=[129.304, 124.070, 112.434],
    std=[68.170, 65.392, 70.418],
)
resnet34 = dict(head=dict(num_classes=100))
resnet18 = dict(head=dict(num_classes=100))
cifar_train = dict(dataset=dict(type='CIFAR100', data_root='data/cifar100'))
val_dataloader = dict(
    dataset=dict(dataset=dict(type='CIFAR100', data_root='data/cifar100'))
)
test_dataloader = val_dataloader

get_cifar = (
    'python -c "from torchvision.datasets import CIFAR100; '
    "CIFAR100('data/cifar100', download=True)\""
)
need_test_data = dict(holds='cifar-100-python', make=get_cifar)
need_train_data = dict(holds='cifar-100-python', make=get_cifar)
need_teacher = dict(
    make='python tools/train.py configs/teachers/resnet34_cifar100.py'
)

# CIFAR-10 for evaluation, and what its networks have in common.
_base_ = ['cifar.py']

preprocessor = dict(
    # RGB statistics of the training set, as in mmpretrain.
    mean=[125.307, 122.961, 113.8575],
    std=[51.5865, 50.847, 51.255],
)
resnet34 = dict(head=dict(num_classes=10))
resnet18 = dict(head=dict(num_classes=10))
cifar_train = dict(dataset=dict(type='CIFAR10', data_root='data/cifar10'))
val_dataloader = dict(
    dataset=dict(dataset=dict(type='CIFAR10', data_root='data/cifar10'))
)
test_dataloader = val_dataloader

get_cifar = (
    'python -c "from torchvision.datasets import CIFAR10; '
    "CIFAR10('data/cifar10', download=True)\""
)
need_test_data = dict(holds='cifar-10-batches-py', make=get_cifar)
need_train_data = dict(holds='cifar-10-batches-py', make=get_cifar)
need_teacher = dict(
    make='python tools/train.py configs/teachers/resnet34_cifar10.py'
)

# The teacher: ResNet-50 on CIFAR-100, 79.34 % in RepDistiller and mdistiller,
# whose schedule this is. Instead of training it, convert their checkpoint:
#
#   mkdir -p work_dirs/resnet50_cifar100
#   python tools/convert_checkpoint.py \
#       configs/teachers/resnet50_cifar100.py ckpt_epoch_240.pth \
#       work_dirs/resnet50_cifar100/epoch_240.pth
_base_ = ['../_base_/benchmark_cifar100.py']

model = dict(**_base_.networks.r50, data_preprocessor=_base_.preprocessor)

# The teacher: WRN-40-2 on CIFAR-100, 75.61 % in RepDistiller and mdistiller,
# whose schedule this is. Instead of training it, convert their checkpoint:
#
#   mkdir -p work_dirs/wrn40_2_cifar100
#   python tools/convert_checkpoint.py \
#       configs/teachers/wrn40_2_cifar100.py ckpt_epoch_240.pth \
#       work_dirs/wrn40_2_cifar100/epoch_240.pth
_base_ = ['../_base_/benchmark_cifar100.py']

model = dict(**_base_.networks.wrn40_2, data_preprocessor=_base_.preprocessor)

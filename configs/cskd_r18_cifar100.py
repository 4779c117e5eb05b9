# CS-KD: ResNet-18 on CIFAR-100. 200 epochs of 128 pairs a step, SGD at 0.1 and
# with a weight decay of 1e-4, tenths at 100 and 150, as in its code, but that
# this changes the rate at the end of an epoch, so that the tenths begin with
# the epochs 101 and 151 (from 0), and that its ResNet-18 is pre-activation.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/cskd.py']

model = dict(data_preprocessor=_base_.preprocessor, student=_base_.resnet18)
train_dataloader = dict(
    batch_size=256,
    sampler=dict(type='SameClassPairSampler'),
)
train_cfg = dict(max_epochs=200)
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=1e-4))
param_scheduler = dict(milestones=[100, 150])
auto_scale_lr = dict(base_batch_size=256)

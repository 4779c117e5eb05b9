# ONE: ResNet-32 with three branches on CIFAR-100, with the schedule of its
# code (scripts/ONE_ResNet32.sh): batches of 128, 300 epochs, tenths at 151
# and 225. 73.39 in the paper, 68.82 without ONE, both from recollection.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/one.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    student=_base_.networks.r32,
    branch_from='backbone.layer3',
)
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=300)
optim_wrapper = dict(optimizer=dict(lr=0.1, weight_decay=1e-4))
param_scheduler = dict(milestones=[151, 225])
auto_scale_lr = dict(base_batch_size=128)

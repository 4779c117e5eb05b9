# The teacher: ResNet-34 on CIFAR-10. SGD at 0.1 with weight decay 5e-4 and a
# cosine over 200 epochs, the schedule with which the README of zju-vipa's
# DataFree reports 95.70 % for this network.
_base_ = ['../_base_/default_runtime.py', '../_base_/cifar10.py']

model = dict(**_base_.resnet34, data_preprocessor=_base_.preprocessor)
train_dataloader = dict(
    batch_size=128,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    collate_fn=dict(type='array_collate'),
    dataset=_base_.cifar_train,
    sampler=dict(type='DefaultSampler', shuffle=True),
)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True, T_max=200)
auto_scale_lr = dict(base_batch_size=128, enable=False)
required_inputs = [_base_.need_train_data, _base_.need_test_data]
trained_on = 'CIFAR-10'

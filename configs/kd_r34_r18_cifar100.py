# Reference: plain KD on the original data. Weights 0.1 and 0.9, temperature
# 4, 240 epochs with tenths at 150, 180 and 210, as in the CIFAR recipe of
# RepDistiller and mdistiller.
_base_ = [
    '_base_/default_runtime.py',
    '_base_/cifar100.py',
    '_base_/distillers/kd.py',
]

# 0.1 cross entropy + 0.9 KL.
_base_.distiller.distill_losses.loss_kl.loss_weight = 0.9
_student = dict(_base_.resnet18)
_student['head'] = dict(
    _base_.resnet18['head'],
    loss=dict(type='CrossEntropyLoss', loss_weight=0.1),
)
model = dict(
    type='SingleTeacherDistill',
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.resnet34,
    teacher_ckpt='work_dirs/resnet34_cifar100/epoch_200.pth',
    student=_student,
    channels_last=True,
    distiller=_base_.distiller,
)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    collate_fn=dict(type='array_collate'),
    dataset=_base_.cifar_train,
    sampler=dict(type='DefaultSampler', shuffle=True),
)
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1
)
auto_scale_lr = dict(base_batch_size=64, enable=False)
required_inputs = [
    _base_.need_teacher,
    _base_.need_train_data,
    _base_.need_test_data,
]
trained_on = 'CIFAR-100'

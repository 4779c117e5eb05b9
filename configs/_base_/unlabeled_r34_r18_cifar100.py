# ResNet-34 teaches ResNet-18 with unlabeled images at 32x32 pixels. Schedule
# and augmentation of DFND's code: SGD at 0.1, batches of 256, tenths at 40 %
# and 80 %, as many epochs as 20 million samples take; crop with padding, flip.
# The number of images is our choice.
_base_ = ['default_runtime.py', 'cifar100.py']

num_samples = 150_000
model = dict(
    type='SingleTeacherDistill',
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.resnet34,
    teacher_ckpt='work_dirs/resnet34_cifar100/epoch_200.pth',
    student=_base_.resnet18,
    calculate_student_loss=False,
    channels_last=True,
)
train_dataloader = dict(
    batch_size=256,
    num_workers=0,
    persistent_workers=False,
    drop_last=True,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='PackedImages', data_file='data/imagenet32.npz'),
)
train_cfg = dict(by_epoch=True, max_epochs=136, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[54, 109], gamma=0.1
)
auto_scale_lr = dict(base_batch_size=256, enable=False)
required_inputs = [
    _base_.need_teacher,
    _base_.need_unlabeled,
    _base_.need_test_data,
]

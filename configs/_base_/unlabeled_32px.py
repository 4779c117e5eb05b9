# Distillation with unlabeled images at 32x32 pixels. Schedule of DFND's code:
# SGD at 0.1, batches of 256, tenths at 40 % and 80 %, as many epochs as 20
# million samples take. The number of images is our choice.
num_samples = 150_000
model = dict(
    type='SingleTeacherDistill',
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

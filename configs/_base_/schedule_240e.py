# The schedule of RepDistiller and mdistiller: SGD at 0.05, tenths at 150, 180
# and 210 of 240 epochs. For batches of 64. ShuffleNet and MobileNet start at
# 0.01.
train_cfg = dict(by_epoch=True, max_epochs=240, val_interval=1)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(
    type='MultiStepLR', by_epoch=True, milestones=[150, 180, 210], gamma=0.1
)
auto_scale_lr = dict(base_batch_size=64, enable=False)

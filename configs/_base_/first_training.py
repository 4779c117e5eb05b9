# What the first of two trainings has in common: 30 epochs at one rate, as in
# RepDistiller. The head has not learned anything yet, so there is nothing to
# validate, and the second training starts from what is left at the end.
_base_ = ['pairs_cifar100.py']

train_cfg = dict(max_epochs=30, val_interval=30)
param_scheduler = dict(milestones=[])
default_hooks = dict(checkpoint=dict(save_best=None))

# BYOT: ResNet-18 on CIFAR-100. 250 epochs of 128 images a step, SGD at 0.1,
# tenths at 80, 160 and 240, as in MMRazor, which augments the images more; the
# paper's schedule is not known to us.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/byot.py']

model = dict(data_preprocessor=_base_.preprocessor, student=_base_.resnet18)
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=250)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = dict(milestones=[80, 160, 240])
auto_scale_lr = dict(base_batch_size=128)

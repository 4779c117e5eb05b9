# PS-KD: ResNet-18 on CIFAR-100. 300 epochs of 128 images a step, SGD with
# Nesterov's momentum at 0.1, tenths at 150 and 225, as in its README and code,
# which report 79.18 % for a pre-activation ResNet-18. An image of the last 80
# of an epoch, which are no batch here, keeps what was said of it before.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/pskd.py']

model = dict(
    data_preprocessor=_base_.preprocessor,
    student=_base_.resnet18,
    num_samples=50_000,
)
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=300)
optim_wrapper = dict(optimizer=dict(lr=0.1, nesterov=True))
param_scheduler = dict(milestones=[150, 225])
auto_scale_lr = dict(base_batch_size=128)

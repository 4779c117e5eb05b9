# DLB: ResNet-18 on CIFAR-100. SGD with Nesterov's momentum and a weight decay
# of 5e-4 as in its code; that has no defaults for the rest, which is the
# schedule of the other CIFAR configs: 240 epochs from 0.05, 64 new images a
# step.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/dlb.py']

_batch_size = 64
model = dict(
    data_preprocessor=_base_.preprocessor,
    student=_base_.resnet18,
    batch_size=_batch_size,
)
train_dataloader = dict(
    # New images; all batches but the first of an epoch have twice as many.
    batch_size=_batch_size,
    # PyTorch wants it to be said to the batch sampler.
    drop_last=False,
    batch_sampler=dict(type='LastBatchSampler', drop_last=True),
)
optim_wrapper = dict(optimizer=dict(nesterov=True))

# TF-KD by regularisation: ResNet-18 on CIFAR-100. 200 epochs of 128 images a
# step, SGD at 0.1, which is reached over the first epoch, fifths at 60, 120
# and 160, as in its code, which also rotates the images by up to 15 degrees.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/tfkd.py']

model = dict(data_preprocessor=_base_.preprocessor, student=_base_.resnet18)
train_dataloader = dict(batch_size=128)
train_cfg = dict(max_epochs=200)
optim_wrapper = dict(optimizer=dict(lr=0.1))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-3,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='MultiStepLR',
        by_epoch=True,
        milestones=[60, 120, 160],
        gamma=0.2,
    ),
]
auto_scale_lr = dict(base_batch_size=128)

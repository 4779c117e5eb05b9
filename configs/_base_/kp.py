# Explaining distillation by its knowledge points, after Cheng et al., CVPR
# 2020 (https://arxiv.org/abs/2003.03622): schedule and what all data have in
# common. Four trainings of one network, then the count:
#
#   teacher     fine-tuned from ImageNet's weights
#   baseline    from scratch, from labels
#   student     from where the baseline starts: the teacher's features of one
#               layer, without labels
#   classifier  the student's second phase: what comes after that layer, from
#               labels
#
# As in the released code: 64 images a step, 150 epochs, learning rates that
# fall by equal factors to a tenth, CUB not augmented. Ours: no augmentation of
# other data either, and images squeezed to 224x224.
_base_ = ['default_runtime.py']

preprocessor = dict(
    type='BatchAugDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
# Masks and boxes are in pixels of the stored image.
load = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
# Pillow averages over what it shrinks; OpenCV does not.
resize = dict(type='Resize', scale=(224, 224), backend='pillow')
pack = dict(type='PackInputs')
pack_foreground = dict(
    type='PackInputs',
    algorithm_keys=('gt_seg_map',),
    meta_keys=('name', 'img_path'),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='array_collate'),
    sampler=dict(type='DefaultSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    persistent_workers=True,
    collate_fn=dict(type='array_collate'),
    sampler=dict(type='DefaultSampler', shuffle=False),
)
val_evaluator = dict(type='Accuracy', topk=(1,))
val_cfg = dict()
test_evaluator = val_evaluator
test_cfg = dict()

train_cfg = dict(by_epoch=True, max_epochs=150, val_interval=5)
# The last of 150 epochs has a tenth of the first one's rate.
param_scheduler = [
    dict(type='ExponentialLR', by_epoch=True, gamma=0.1 ** (1 / 149))
]
auto_scale_lr = dict(base_batch_size=64, enable=False)
# No checkpoint is chosen by its accuracy; the last one counts.
default_hooks = dict(checkpoint=dict(interval=10, save_best=None))

# Of the second phase. Which figure the released code watches is not known.
# Here it is the accuracy on the validation set, as the engine's scheduler sees
# figures of validation alone, and that set is CUB's test split where the data
# are CUB's: the student's accuracy there is then not one on unseen images. The
# layer that is explained is frozen in this phase, so its points do not depend
# on it.
classifier_cfg = dict(max_epochs=100, val_interval=1)
classifier_scheduler = [
    dict(
        type='ReduceOnPlateauLR',
        monitor='accuracy/top1',
        rule='greater',
        factor=0.3,
        patience=10,
    )
]
# The trainings in their order, and what each leaves when it is done.
leaves = dict(
    teacher='epoch_150.pth',
    baseline='snapshots/epoch_150.pth',
    student='snapshots/epoch_150.pth',
    classifier='snapshots/epoch_100.pth',
)

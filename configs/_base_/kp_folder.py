# Knowledge points of a classifier of your own images: folders, one a class,
# to train and to evaluate on, and images with masks to explain.
_base_ = ['kp.py']

num_classes = 10
_train = dict(
    type='CustomDataset',
    data_root='data/train',
    pipeline=[_base_.load, _base_.resize, _base_.pack],
)
train_dataloader = dict(dataset=_train)
val_dataloader = dict(dataset=dict(_train, data_root='data/val'))
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
# Where objects are small: dict(type='CropObject', scale=1.2) after
# LoadForeground, and images that are cut out alike to train on.
folder_pipeline = [
    _base_.load,
    dict(type='LoadForeground'),
    _base_.resize,
    _base_.pack_foreground,
]
image_sets = dict(
    masked=dict(
        type='FolderWithMasks',
        # Holds the folders images and masks.
        data_root='data/masked',
        pipeline=folder_pipeline,
    )
)

required_inputs = [
    dict(key='train_dataloader.dataset.data_root'),
    dict(key='val_dataloader.dataset.data_root'),
]
explain_inputs = [
    dict(key='explain.image_sets.masked.data_root', holds='images')
]
trained_on = 'a folder'

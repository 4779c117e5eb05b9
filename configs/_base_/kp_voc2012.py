# Knowledge points on PASCAL VOC 2012: every object of the segmented images,
# cut out with 1.2 times its box; its own pixels are the foreground. That
# training sees these objects and no others is our inference.
_base_ = ['kp.py']

num_classes = 20
data_root = 'data/VOCdevkit/VOC2012'
_crop = dict(type='CropObject', scale=1.2)
_train = dict(
    type='VOCObjects',
    data_root=data_root,
    split='train',
    foreground='segmentation',
    pipeline=[_base_.load, _crop, _base_.resize, _base_.pack],
)
train_dataloader = dict(dataset=_train)
val_dataloader = dict(dataset=dict(_train, split='val'))
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
folder_pipeline = [
    _base_.load,
    dict(type='LoadForeground'),
    _crop,
    _base_.resize,
    _base_.pack_foreground,
]
image_sets = {
    split: dict(_train, split=split, pipeline=folder_pipeline)
    for split in ('train', 'val')
}

_segmented = dict(
    holds='SegmentationObject',
    make='mkdir -p data && curl -fL http://host.robots.ox.ac.uk/pascal/VOC/'
    'voc2012/VOCtrainval_11-May-2012.tar | tar x -C data',
)
required_inputs = [
    dict(key=f'{loader}.dataset.data_root', **_segmented)
    for loader in ('train_dataloader', 'val_dataloader')
]
explain_inputs = [dict(key='explain.image_sets.train.data_root', **_segmented)]
trained_on = 'objects of PASCAL VOC 2012'

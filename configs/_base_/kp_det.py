# Knowledge points on ILSVRC-DET: every object, cut out with 1.5 times its box,
# which is the foreground, as there are no outlines. The factor is derived from
# the cells that the released code takes as foreground, the middle two thirds
# of the crop, int(16 / 6) to int(16 * 5 / 6) of 16. It has 12 'mammals', and
# which ones they are is not known: put yours into `classes`.
_base_ = ['kp.py']

# WordNet ids, such as ['n02084071', 'n02121808']; None means all that are
# found, which are 200.
classes = None
num_classes = 200 if classes is None else len(classes)
data_root = 'data/ILSVRC'
_crop = dict(type='CropObject', scale=1.5)
_train = dict(
    type='DETObjects',
    data_root=data_root,
    ann_dir='Annotations/DET/train/ILSVRC2013_train',
    img_dir='Data/DET/train/ILSVRC2013_train',
    classes=classes,
    pipeline=[_base_.load, _crop, _base_.resize, _base_.pack],
)
_val = dict(_train, ann_dir='Annotations/DET/val', img_dir='Data/DET/val')
train_dataloader = dict(dataset=_train)
val_dataloader = dict(dataset=_val)
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
folder_pipeline = [
    _base_.load,
    dict(type='LoadForeground'),
    _crop,
    _base_.resize,
    _base_.pack_foreground,
]
image_sets = dict(
    train=dict(_train, pipeline=folder_pipeline),
    val=dict(_val, pipeline=folder_pipeline),
)

# The archive is handed out at https://www.image-net.org, after a login.
_unpack = 'mkdir -p data && tar xzf ILSVRC2017_DET.tar.gz -C data'
required_inputs = [
    dict(
        key=f'{loader}.dataset.data_root',
        holds=f'Annotations/DET/{split}',
        make=_unpack,
    )
    for loader, split in (
        ('train_dataloader', 'train'),
        ('val_dataloader', 'val'),
    )
]
explain_inputs = [
    dict(
        key='explain.image_sets.train.data_root',
        holds='Annotations/DET/train',
        make=_unpack,
    )
]
trained_on = 'objects of ILSVRC-DET'

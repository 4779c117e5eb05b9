# Knowledge points on CUB-200-2011: whole images, and the outlines of the
# birds, which are an archive of their own and needed for explaining alone.
_base_ = ['kp.py']

num_classes = 200
data_root = 'data/CUB_200_2011'
_train = dict(
    type='CUBForeground',
    data_root=data_root,
    split='train',
    # In the archive of the images; it is not used.
    foreground='box',
    pipeline=[_base_.load, _base_.resize, _base_.pack],
)
train_dataloader = dict(dataset=_train)
val_dataloader = dict(dataset=dict(_train, split='test'))
test_dataloader = dict(_base_.val_dataloader, **val_dataloader)
folder_pipeline = [
    _base_.load,
    dict(type='LoadForeground'),
    _base_.resize,
    _base_.pack_foreground,
]
image_sets = {
    split: dict(
        type='CUBForeground',
        data_root=data_root,
        split=split,
        foreground='segmentation',
        pipeline=folder_pipeline,
    )
    for split in ('train', 'test')
}

_images = dict(
    holds='images',
    make='mkdir -p data && curl -fL '
    'https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz '
    '| tar xz -C data',
)
required_inputs = [
    dict(key=f'{loader}.dataset.data_root', **_images)
    for loader in ('train_dataloader', 'val_dataloader')
]
explain_inputs = [
    dict(key='explain.image_sets.train.data_root', **_images),
    dict(
        key='explain.image_sets.train.data_root',
        holds='segmentations',
        make=f'mkdir -p {data_root} && curl -fL '
        'https://data.caltech.edu/records/w9d68-gec53/files/segmentations.tgz '
        f'| tar xz -C {data_root}',
    ),
]
trained_on = 'CUB-200-2011'

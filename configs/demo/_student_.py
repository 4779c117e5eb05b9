# A student that never sees a handwritten digit: it learns from the teacher's
# answers to printed glyphs. What builds on this differs in the choice of
# glyphs and in what is distilled.
_base_ = ['_base_.py']

model = dict(
    type='SingleTeacherDistill',
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.teacher,
    teacher_ckpt='work_dirs/demo/teacher/epoch_20.pth',
    student=dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            stem_channels=8,
            base_channels=8,
            num_stages=4,
            out_indices=(3,),
            style='pytorch',
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=10,
            in_channels=64,
            loss=dict(type='CrossEntropyLoss'),
        ),
    ),
    calculate_student_loss=False,
)
num_samples = 2000
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    collate_fn=dict(type='array_collate'),
    dataset=dict(type='DemoGlyphs', num_images=8000),
)
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=5)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.1,
        end=1,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR', begin=1, end=15, convert_to_iter_based=True
    ),
]
required_inputs = [
    dict(
        key='model.teacher_ckpt',
        make='python tools/train.py configs/demo/teacher_digits.py '
        '--work-dir work_dirs/demo/teacher',
    ),
]
trained_on = 'printed glyphs'

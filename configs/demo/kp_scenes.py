# What distillation taught the student of the embedded experiment:
#
#   python tools/explain.py configs/demo/kp_scenes.py --train
#
# trains the four runs where they are not there yet, and explains them.
_base_ = ['_kp_.py']

_runs = 'work_dirs/demo'
explain = dict(
    model=dict(**_base_.network, data_preprocessor=_base_.preprocessor),
    teacher_ckpt=f'{_runs}/kp_teacher/epoch_4.pth',
    # Features, then a classifier on them.
    student=[f'{_runs}/kp_student', f'{_runs}/kp_classifier'],
    baseline=f'{_runs}/kp_baseline',
    image_sets={
        split: dict(type='DemoScenes', split=split, num_images=200)
        for split in ('test', 'val', 'train')
    },
    images='test',
    num_images=100,
    protocol=dict(
        layer=_base_.layer,
        # As released for ResNets.
        constants=dict(lam=6.0),
    ),
    trainings=[
        dict(
            config=f'configs/demo/kp_{what}_scenes.py',
            work_dir=f'{_runs}/kp_{what}',
            makes=makes,
        )
        for what, makes in [
            ('teacher', 'epoch_4.pth'),
            ('baseline', 'snapshots/epoch_10.pth'),
            ('student', 'snapshots/epoch_10.pth'),
            ('classifier', 'snapshots/epoch_4.pth'),
        ]
    ],
)

# What distillation teaches ResNet-50 about CUB-200-2011: the trainings and the
# count of knowledge points, on 500 images of the training set.
_base_ = ['kp_r50_cub200_baseline.py']

explain = dict(
    model=_base_.model,
    teacher_ckpt='work_dirs/kp_r50_cub200_teacher/epoch_150.pth',
    student=[
        'work_dirs/kp_r50_cub200_student',
        'work_dirs/kp_r50_cub200_classifier',
    ],
    baseline='work_dirs/kp_r50_cub200_baseline',
    image_sets=_base_.image_sets,
    images='train',
    num_images=500,
    folder_pipeline=_base_.folder_pipeline,
    protocol=_base_.protocol,
    trainings=[
        dict(
            config=f'configs/kp_r50_cub200_{what}.py',
            work_dir=f'work_dirs/kp_r50_cub200_{what}',
            makes=file,
        )
        for what, file in _base_.leaves.items()
    ],
)
required_inputs = _base_.explain_inputs

# What distillation teaches VGG-16 about objects of VOC 2012: the trainings and
# the count of knowledge points, on 500 images of the training set.
_base_ = ['kp_vgg16_voc2012_baseline.py']

explain = dict(
    model=_base_.model,
    teacher_ckpt='work_dirs/kp_vgg16_voc2012_teacher/epoch_150.pth',
    student=[
        'work_dirs/kp_vgg16_voc2012_student',
        'work_dirs/kp_vgg16_voc2012_classifier',
    ],
    baseline='work_dirs/kp_vgg16_voc2012_baseline',
    image_sets=_base_.image_sets,
    images='train',
    num_images=500,
    folder_pipeline=_base_.folder_pipeline,
    protocol=_base_.protocol,
    trainings=[
        dict(
            config=f'configs/kp_vgg16_voc2012_{what}.py',
            work_dir=f'work_dirs/kp_vgg16_voc2012_{what}',
            makes=file,
        )
        for what, file in _base_.leaves.items()
    ],
)
required_inputs = _base_.explain_inputs

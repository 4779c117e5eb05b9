# A start for your own: what distillation teaches ResNet-18 about your images.
# Copy the files kp_custom_r18_folder*.py and _base_/kp_folder.py, and edit
# them; on the command line, set the keys of the data:
#
#   python tools/train.py configs/kp_custom_r18_folder_teacher.py \
#       --cfg-options train_dataloader.dataset.data_root=birds/train \
#       val_dataloader.dataset.data_root=birds/val
#
# likewise of _baseline.py, _student.py and _classifier.py, in this order; then
#
#   python tools/explain.py configs/kp_custom_r18_folder.py \
#       --images birds/masked
#
# Another network is a file like _base_/kp_r18.py. A teacher of your own with
# the same architecture needs no training: set model.teacher_ckpt of the
# student, and give it to tools/explain.py as --teacher. For one of another
# architecture, whose layer has maps of the same shape, set model.teacher of
# the student, explain.teacher_model and explain.protocol.teacher_layer.
_base_ = ['kp_custom_r18_folder_baseline.py']

explain = dict(
    model=_base_.model,
    teacher_ckpt='work_dirs/kp_custom_r18_folder_teacher/epoch_150.pth',
    student=[
        'work_dirs/kp_custom_r18_folder_student',
        'work_dirs/kp_custom_r18_folder_classifier',
    ],
    baseline='work_dirs/kp_custom_r18_folder_baseline',
    image_sets=_base_.image_sets,
    images='masked',
    num_images=500,
    folder_pipeline=_base_.folder_pipeline,
    protocol=_base_.protocol,
    trainings=[
        dict(
            config=f'configs/kp_custom_r18_folder_{what}.py',
            work_dir=f'work_dirs/kp_custom_r18_folder_{what}',
            makes=file,
        )
        for what, file in _base_.leaves.items()
    ],
)
required_inputs = _base_.explain_inputs

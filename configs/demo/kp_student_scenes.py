# The student, first phase: the teacher's features of one layer, without
# labels, from the weights that the baseline started from.
_base_ = ['_kp_.py']

_features = dict(
    features=dict(type='ModuleOutputs', source=_base_.layer),
)
model = dict(
    type='SingleTeacherDistill',
    data_preprocessor=_base_.preprocessor,
    teacher=_base_.network,
    teacher_ckpt='work_dirs/demo/kp_teacher/epoch_4.pth',
    # Nothing is learned behind the layer.
    student=dict(
        _base_.network, type='PartlyFrozenClassifier', frozen=['head']
    ),
    student_ckpt='work_dirs/demo/kp_baseline/snapshots/epoch_0.pth',
    calculate_student_loss=False,
    distiller=dict(
        type='ConfigurableDistiller',
        student_recorders=_features,
        teacher_recorders=_features,
        distill_losses=dict(loss_features=dict(type='MSELoss')),
        loss_forward_mappings=dict(
            loss_features=dict(
                preds_S=dict(from_student=True, recorder='features'),
                preds_T=dict(from_student=False, recorder='features'),
            )
        ),
    ),
)
# With a head that has not learned there is no accuracy.
val_dataloader = None
val_evaluator = None
val_cfg = None
test_dataloader = None
test_evaluator = None
test_cfg = None
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=_base_.max_epochs)
required_inputs = [
    dict(
        key='model.teacher_ckpt',
        make='python tools/train.py configs/demo/kp_teacher_scenes.py '
        '--work-dir work_dirs/demo/kp_teacher',
    ),
    dict(
        key='model.student_ckpt',
        make='python tools/train.py configs/demo/kp_baseline_scenes.py '
        '--work-dir work_dirs/demo/kp_baseline',
    ),
]
trained_on = '1,500 digits on textures, without labels'

# The mean of three teachers: ResNet-32x4, WRN-40-2 and VGG-13 to ResNet-8x4 on
# CIFAR-100. CA-MKD's code has Nesterov's momentum and does not clip; its
# teachers are three ResNet-32x4, its student is a VGG-8.
_base_ = ['_base_/benchmark_cifar100.py', '_base_/methods/avgkd.py']

_names = ['r32x4', 'wrn40_2', 'vgg13']
_logits = {name: dict(from_student=False, recorder=name) for name in _names}
model = dict(
    data_preprocessor=_base_.preprocessor,
    teachers={
        name: dict(
            model=_base_.networks[name], ckpt=_base_.teachers[name].ckpt
        )
        for name in _names
    },
    student=_base_.networks.r8x4,
    distiller=dict(
        teacher_recorders={
            name: dict(type='ModuleOutputs', source=f'{name}.head.fc')
            for name in _names
        },
        loss_forward_mappings=dict(
            loss_kl=dict(
                preds_S=dict(from_student=True, recorder='logits'),
                preds_T=dict(
                    **_logits['r32x4'],
                    connector='mean',
                    connector_inputs={
                        name: _logits[name] for name in _names[1:]
                    },
                ),
            )
        ),
    ),
)
optim_wrapper = dict(optimizer=dict(nesterov=True))
required_inputs = [
    *(
        dict(
            key=f'model.teachers.{name}.ckpt',
            make=_base_.teachers[name].need.make,
        )
        for name in _names
    ),
    *_base_.required_inputs,
]

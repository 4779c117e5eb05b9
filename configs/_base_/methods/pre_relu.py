# What OFD and AB share: the maps in front of the last ReLU of each stage.
_base_ = ['features.py']

# Of r32x4 and r8x4: widths, and the last block of the teacher's stages and of
# the student's. Another pair sets others.
widths = {1: 64, 2: 128, 3: 256}
_last_T, _last_S = 4, 0
# What goes into the ReLU is a sum: the second call of the block's ReLU.
_sum = dict(record_idx=1, data_idx=0)
pre_relu_preds = {
    i: dict(
        preds_S=dict(from_student=True, recorder=f'pre{i}', **_sum),
        preds_T=dict(from_student=False, recorder=f'pre{i}', **_sum),
    )
    for i in widths
}
last_blocks_T = {i: f'backbone.layer{i}.{_last_T}' for i in widths}
model = dict(
    distiller=dict(
        student_recorders={
            f'pre{i}': dict(
                type='ModuleInputs', source=f'backbone.layer{i}.{_last_S}.relu'
            )
            for i in widths
        },
        teacher_recorders={
            f'pre{i}': dict(type='ModuleInputs', source=f'{block}.relu')
            for i, block in last_blocks_T.items()
        },
    )
)

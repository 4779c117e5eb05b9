# AB, first of two trainings, with the released weights: 3e-3 at the last
# stage, half of the next stage's at each one before, nothing else. Stages of
# the same shape, as here, are compared as they are; a student of other widths
# needs a ConvConnector with BN at each, as OFD has. The head does not learn
# here, and the second training starts from the snapshot at the end.
_base_ = ['pre_relu.py']

model = dict(
    calculate_student_loss=False,
    distiller=dict(
        distill_losses={
            f'loss_ab{i}': dict(
                type='ABLoss', margin=1.0, loss_weight=3e-3 / 2 ** (3 - i)
            )
            for i in _base_.widths
        },
        loss_forward_mappings={
            f'loss_ab{i}': preds for i, preds in _base_.pre_relu_preds.items()
        },
    ),
)

# Explaining distillation by its knowledge points: what the networks have in
# common. Network, layer, learning rates and lambda are in kp_vgg16.py,
# kp_r18.py and kp_r50.py.

# Of training from scratch, with the network's rate. That the features are
# distilled with the same is our inference.
optim_wrapper = dict(
    optimizer=dict(type='SGD', momentum=0.9, weight_decay=1e-4)
)
# The first phase of the student: the features of one layer and nothing else.
distillation = dict(
    type='SingleTeacherDistill',
    calculate_student_loss=False,
    distiller=dict(
        type='ConfigurableDistiller',
        distill_losses=dict(loss_features=dict(type='MSELoss')),
        loss_forward_mappings=dict(
            loss_features=dict(
                preds_S=dict(from_student=True, recorder='features'),
                preds_T=dict(from_student=False, recorder='features'),
            )
        ),
    ),
)
# The entropies of 16x16 cells, read where their mean is -2.8 nats; cells that
# are 0.2 nats below the background's mean are points. The released code also
# drops the images whose background has less entropy than their foreground:
# released_filter=True.
protocol = dict(
    relu=True,
    grid=(16, 16),
    method='flow',
    constants=dict(target=-2.8),
    b=0.2,
    reference='background_dataset',
    released_filter=False,
)

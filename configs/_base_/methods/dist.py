# DIST with its author's setting for CIFAR-100 (hunto/LocalMamba,
# dist_cifar.yaml): twice the loss at a temperature of 4, beside cross entropy.
_base_ = ['logits.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_dist=dict(type='DISTLoss', beta=2.0, gamma=2.0, tau=4.0)
        ),
        loss_forward_mappings=dict(loss_dist=_base_.preds),
    ),
)

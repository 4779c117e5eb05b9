# Born-again networks: cross entropy and the answers of a teacher of the same
# architecture (Furlanello et al., ICML 2018,
# https://arxiv.org/abs/1805.04770). The weights of 1 and the temperature of 1
# are from recollection, not verified.
_base_ = ['logits.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=1.0))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=1.0, loss_weight=1.0)
        ),
        loss_forward_mappings=dict(loss_kl=_base_.preds),
    ),
)

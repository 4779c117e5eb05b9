# KD as in RepDistiller, mdistiller and SDD's repository: 0.1 cross entropy +
# 0.9 KL at temperature 4.
_base_ = ['logits.py']

model = dict(
    student=dict(
        head=dict(loss=dict(type='CrossEntropyLoss', loss_weight=0.1))
    ),
    distiller=dict(
        distill_losses=dict(
            loss_kl=dict(type='KLDivergence', tau=4.0, loss_weight=0.9)
        ),
        loss_forward_mappings=dict(loss_kl=_base_.preds),
    ),
)

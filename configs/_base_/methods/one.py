# ONE with the setting of its code: three branches, a temperature of 3, and a
# weight that grows over 80 epochs. What builds on this gives the student and
# where it branches.
model = dict(
    type='ONE',
    channels_last=True,
    num_branches=3,
    distill_loss=dict(
        type='KLDivergence',
        tau=3.0,
        loss_weight=dict(type='SigmoidRamp', value=1.0, end=80),
    ),
)

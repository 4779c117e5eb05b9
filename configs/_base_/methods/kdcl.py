# KDCL: cross entropy + KL divergence from a target that the students make
# together. Temperature and weight are second-hand.
model = dict(
    type='KDCL',
    channels_last=True,
    target='min_logit',
    peer_loss=dict(type='KLDivergence', tau=2.0),
)

# Deep mutual learning as published: cross entropy + the mean of the KL
# divergences from the other students' answers, without a temperature.
model = dict(
    type='DML',
    channels_last=True,
    peer_loss=dict(type='KLDivergence', tau=1.0),
)

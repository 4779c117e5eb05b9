# Baseline: plain KD on randomly chosen unlabeled images.
_base_ = [
    '_base_/unlabeled_r34_r18_cifar100.py',
    '_base_/distillers/kd.py',
]

model = dict(distiller=_base_.distiller)
train_dataloader = dict(
    sampler=dict(type='RandomSubsetSampler', num_samples=_base_.num_samples)
)
trained_on = 'random unlabeled images'

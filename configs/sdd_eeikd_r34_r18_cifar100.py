# SDD in EEIKD: the teacher's logits on regions of selected unlabeled images.
# No paper has this combination, so there is no number to reproduce.
_base_ = [
    '_base_/unlabeled_r34_r18_cifar100.py',
    '_base_/distillers/sdd_eeikd.py',
]

model = dict(distiller=_base_.distiller)
train_dataloader = dict(
    sampler=dict(
        type='AdaptiveThresholdSampler',
        num_samples=_base_.num_samples,
        # As in eeikd_r34_r18_cifar100.py.
        gamma=0.5,
        # Scores of the teacher, for later and resumed runs.
        cache_file='work_dirs/sdd_eeikd_r34_r18_cifar100/scores.npz',
    )
)
trained_on = 'unlabeled images selected by the adaptive threshold'

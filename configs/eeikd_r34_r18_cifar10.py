# EEIKD: ResNet-34 to ResNet-18 without CIFAR-10, with selected unlabeled
# images. See docs/eeikd.md.
_base_ = [
    '_base_/unlabeled_r34_r18_cifar10.py',
    '_base_/distillers/eeikd.py',
]

model = dict(distiller=_base_.distiller)
train_dataloader = dict(
    sampler=dict(
        type='AdaptiveThresholdSampler',
        num_samples=_base_.num_samples,
        # Our choice: the paper's value is unknown.
        gamma=0.5,
        # Scores of the teacher, for later and resumed runs.
        cache_file='work_dirs/eeikd_r34_r18_cifar10/scores.npz',
    )
)
trained_on = 'unlabeled images selected by the adaptive threshold'

# Out-of-domain images: the training set of CIFAR-10, 50,000, without labels.
ood_images = dict(
    type='InMemoryImages',
    dataset=dict(
        type='CIFAR10',
        data_root='data/cifar10',
        split='train',
        download=False,
        pipeline=[],
    ),
    with_label=False,
)
ood_sampler = dict(type='DefaultSampler', shuffle=True)
need_ood = dict(
    key='train_dataloader.dataset.dataset.data_root',
    holds='cifar-10-batches-py',
    make='python -c "from torchvision.datasets import CIFAR10; '
    "CIFAR10('data/cifar10', download=True)\"",
)
trained_on = 'synthetic images and CIFAR-10'

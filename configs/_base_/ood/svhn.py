# Out-of-domain images: the training set of SVHN, 73,257, without labels.
ood_images = dict(type='SVHNImages', data_root='data/svhn', split='train')
ood_sampler = dict(type='DefaultSampler', shuffle=True)
need_ood = dict(
    key='train_dataloader.dataset.data_root',
    holds='train_32x32.mat',
    make='python -c "from torchvision.datasets import SVHN; '
    "SVHN('data/svhn', 'train', download=True)\"",
)
trained_on = 'synthetic images and SVHN'

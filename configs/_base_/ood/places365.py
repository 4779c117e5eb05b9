# Out-of-domain images: those of Places365 at 32x32 about which the teacher is
# the least sure, as many as it was trained on.
ood_images = dict(type='PackedImages', data_file='data/places365_32.npz')
ood_sampler = dict(type='EntropySubsetSampler', num_samples=50_000)
need_ood = dict(
    key='train_dataloader.dataset.data_file',
    make='python -c "from torchvision.datasets import Places365; '
    "Places365('data/places365', small=True, download=True)\" && "
    'python tools/pack_dataset.py data/places365/data_256_standard --size 32 '
    '--out data/places365_32.npz',
)
trained_on = 'synthetic images and a part of Places365'

# Out-of-domain images: those of ImageNet at 32x32 about which the teacher is
# the least sure, as many as it was trained on. need_unlabeled has the command
# that makes the file.
ood_images = dict(type='PackedImages', data_file='data/imagenet32.npz')
ood_sampler = dict(type='EntropySubsetSampler', num_samples=50_000)
trained_on = 'synthetic images and a part of ImageNet'

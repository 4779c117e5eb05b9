# Ablation: a discriminator of whole images. Together with out-of-domain images
# it was as good as patches in an independent run with another such network
# (61.09), but not with synthetic images alone (56.21, and 59.4 with patches):
# --cfg-options default_hooks.mosaic.student_images=synthetic
_base_ = ['mosaickd_wrn402_wrn161_cifar100_ood-cifar10.py']

default_hooks = dict(
    mosaic=dict(discriminator=dict(patch_size='image', image_size=32))
)

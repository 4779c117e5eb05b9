# ResNet-50, explained as ResNet-18 is.
_base_ = ['kp_r18.py']

model = dict(backbone=dict(depth=50), head=dict(in_channels=2048))
_ckpt = 'data/resnet50_8xb32_in1k_20210831-ea4938fc.pth'
imagenet = dict(checkpoint=_ckpt)
imagenet_input = dict(
    make=f'mkdir -p data && curl -fL -o {_ckpt} '
    'https://mmassets.onedl.ai/mmclassification/v0/resnet/'
    'resnet50_8xb32_in1k_20210831-ea4938fc.pth',
)

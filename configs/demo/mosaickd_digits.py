# MosaicKD: digits made of patches of glyphs none of which is a digit.
_base_ = ['_student_.py', '../_base_/distillers/kd.py']

model = dict(distiller=_base_.distiller)
train_dataloader = dict(
    dataset=dict(digits=False),
    sampler=dict(type='RandomSubsetSampler', num_samples=_base_.num_samples),
)
default_hooks = dict(
    mosaic=dict(
        type='MosaicGeneratorHook',
        generator=dict(
            type='MosaicGenerator', base_channels=32, image_size=16
        ),
        # Chosen on the digits' split 'val', as are the two numbers below.
        discriminator=dict(
            type='PatchDiscriminator', base_channels=32, patch_size=10
        ),
        # So short a run has too few updates otherwise.
        student_steps=1,
        # The published sum over patches: here there are 16 an image.
        local_weight=16.0,
    )
)
trained_on = '2,000 glyphs without digits, and images made of their patches'

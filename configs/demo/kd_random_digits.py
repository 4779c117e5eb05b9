# The baseline: plain KD on randomly chosen glyphs.
_base_ = ['_student_.py', '../_base_/distillers/kd.py']

model = dict(distiller=_base_.distiller)
train_dataloader = dict(
    sampler=dict(type='RandomSubsetSampler', num_samples=_base_.num_samples)
)
trained_on = '2,000 random glyphs'

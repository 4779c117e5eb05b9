# The baseline of MosaicKD: plain KD on glyphs none of which is a digit.
_base_ = ['_student_.py', '../_base_/distillers/kd.py']

model = dict(distiller=_base_.distiller)
train_dataloader = dict(
    dataset=dict(digits=False),
    sampler=dict(type='RandomSubsetSampler', num_samples=_base_.num_samples),
)
trained_on = '2,000 random glyphs without digits'

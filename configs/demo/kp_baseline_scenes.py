# The baseline: the student's network on the student's scenes, from their
# labels.
_base_ = ['_kp_.py']

model = dict(**_base_.network, data_preprocessor=_base_.preprocessor)
trained_on = '1,500 digits on textures'

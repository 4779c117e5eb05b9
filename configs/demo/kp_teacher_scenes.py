# The teacher: it has four times as many scenes as its student.
_base_ = ['_kp_.py']

model = dict(**_base_.network, data_preprocessor=_base_.preprocessor)
train_dataloader = dict(dataset=dict(num_images=6000))
train_cfg = dict(max_epochs=4, val_interval=4)
trained_on = '6,000 digits on textures'

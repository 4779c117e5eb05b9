# The baseline of MosaicKD: KD on the out-of-domain images alone, as in the
# authors' kd_vanilla.py: temperature 5, batches of 128, a cosine from 0.1.
# Inferred: 200 epochs and the weight decay, which are those of their MosaicKD.
_base_ = ['ood_cifar100.py']

model = dict(distiller=dict(distill_losses=dict(loss_kl=dict(tau=5.0))))
train_dataloader = dict(batch_size=128)
train_cfg = dict(by_epoch=True, max_epochs=200, val_interval=1)
auto_scale_lr = dict(base_batch_size=128, enable=False)

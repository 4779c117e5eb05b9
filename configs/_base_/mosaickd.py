# MosaicKD: a generator and a discriminator of patches beside the student,
# which learns from the teacher's answers to synthetic and out-of-domain
# images. Networks, weights and schedule as in the authors' program; what
# differs by default is said at each option of MosaicPlayers.
_base_ = ['ood_cifar100.py']

# Here an epoch is a pass over the out-of-domain images. A published one is
# five, as the student makes five steps for each update of the others, which
# is what their progress is counted by: 200 of them.
student_steps = 5
# Published: no temperature.
model = dict(distiller=dict(distill_losses=dict(loss_kl=dict(tau=1.0))))
train_dataloader = dict(batch_size=256)
train_cfg = dict(
    by_epoch=True, max_epochs=200 * student_steps, val_interval=student_steps
)
auto_scale_lr = dict(base_batch_size=256, enable=False)

_adam = dict(type='Adam', lr=1e-3, betas=(0.5, 0.999))
default_hooks = dict(
    mosaic=dict(
        type='MosaicGeneratorHook',
        generator=dict(
            type='MosaicGenerator',
            latent_dim=100,
            base_channels=64,
            image_size=32,
        ),
        discriminator=dict(
            type='PatchDiscriminator', base_channels=128, patch_size=10
        ),
        generator_optimizer=_adam,
        discriminator_optimizer=_adam,
        student_steps=student_steps,
        picture_interval=student_steps,
    ),
    checkpoint=dict(interval=student_steps),
)

"""A small generator and the checkpoint of the run that trained it."""

import torch

from mmkd_plugin.models.generators import MosaicGenerator, PatchDiscriminator

MEAN, STD = [10.0, 120.0, 200.0], [50.0, 60.0, 70.0]
OPTIONS = dict(base_channels=2, image_size=8, latent_dim=6)
CONFIG = dict(type='MosaicGenerator', **OPTIONS)


def toy_generator(**options):
    """Build a generator whose statistics are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        generator = MosaicGenerator(**{**OPTIONS, **options})
        for buffer in generator.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    # Images that are neither grey nor all alike.
    generator.project.weight.data.mul_(8)
    generator.layers[-1].weight.data.mul_(8)
    return generator.train(False)


def save_run(path, generator, meta=None, **state):
    """Save what a run with ``MosaicGeneratorHook`` saves."""
    hook = dict(
        generator=CONFIG,
        mean=MEAN,
        std=STD,
        players=dict(
            generator=generator.state_dict(),
            discriminator=PatchDiscriminator(base_channels=2).state_dict(),
            generator_optimizer=dict(state={}, param_groups=[]),
            draws=5,
        ),
    )
    content = dict(
        meta=dict(iter=70, epoch=2) if meta is None else meta,
        state_dict={'student.weight': torch.zeros(2)},
        mosaic_generator_hook={**hook, **state},
    )
    torch.save(content, path)
    return str(path)

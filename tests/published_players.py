"""Generator and discriminator with the weights of a golden case."""

import torch
from torch import nn

from mmkd_plugin.models.generators import MosaicGenerator, PatchDiscriminator


def _load(net: nn.Module, case: dict, prefix: str, names: dict) -> nn.Module:
    """Load what is stored under names with dots replaced by underscores."""
    weights = {}
    for key, value in case.items():
        for theirs, ours in names.items():
            if key.startswith(prefix + theirs):
                # 3_running_mean -> 3.running_mean
                rest = key[len(prefix + theirs) :]
                if ours == 'layers.':
                    rest = rest.replace('_', '.', 1)
                weights[ours + rest] = torch.from_numpy(value).double()
    for name, value in net.state_dict().items():
        if name.endswith('num_batches_tracked'):
            weights[name] = value
    net.double().load_state_dict(weights)
    return net


def published_generator(case: dict, prefix: str = 'G__') -> MosaicGenerator:
    """Build the generator of a case, in float64."""
    net = MosaicGenerator(
        latent_dim=case['z'].shape[-1],
        base_channels=len(case[f'{prefix}conv_blocks_7_weight']),
        image_size=int(case['img_size']),
    )
    names = {'l1_0_': 'project.', 'conv_blocks_': 'layers.'}
    return _load(net, case, prefix, names)


def published_discriminator(
    case: dict, prefix: str = 'D__', **options
) -> PatchDiscriminator:
    """Build the discriminator of a case, in float64."""
    net = PatchDiscriminator(
        base_channels=len(case[f'{prefix}main_0_weight']), **options
    )
    return _load(net, case, prefix, {'main_': 'layers.'})

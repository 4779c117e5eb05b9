import pytest
import torch
from torch.testing import assert_close

from mmkd_plugin.models import MGDConnector, MGDLoss


def masks_of(connector, feature):
    """Get what reaches the generation block, 1 where it is not masked."""
    seen = []
    hook = connector.generation.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    connector(feature)
    hook.remove()
    return seen[0]


@pytest.mark.parametrize('ratio', [0.15, 0.65])
@pytest.mark.parametrize('mask_on', ['channel', 'spatial'])
def test_mask(seed, mask_on, ratio):
    connector = MGDConnector(16, 16, mask_on=mask_on, mask_ratio=ratio)
    mask = masks_of(connector, torch.ones(64, 16, 4, 4))
    # Whole channels or whole places; the rest is not scaled up.
    first = mask[:, :, :1, :1] if mask_on == 'channel' else mask[:, :1]
    assert (mask == first).all()
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    # 1024 draws: a deviation of at most 0.016.
    assert abs((1 - first.mean()).item() - ratio) < 0.06
    # Every sample has its own.
    assert (first[0] != first[1]).any()


def test_mask_depends_on_the_seed_alone():
    connector = MGDConnector(8, 8, mask_ratio=0.5)
    feature = torch.randn(4, 8, 3, 3)
    outs = []
    with torch.random.fork_rng(devices=[]):
        for number in (5, 5, 6):
            torch.manual_seed(number)
            outs.append(connector(feature))
    assert (outs[0] == outs[1]).all()
    assert (outs[0] != outs[2]).any()


def test_nothing_is_masked_in_eval_mode(seed):
    connector = MGDConnector(3, 3, mask_ratio=0.9).eval()
    feature = torch.randn(4, 3, 3, 3)
    assert (masks_of(connector, feature) == feature).all()


@pytest.mark.parametrize('in_channels', [2, 3])
def test_all_of_it_is_trained(seed, in_channels):
    connector = MGDConnector(in_channels, 3, mask_ratio=0.3)
    feature = torch.randn(8, in_channels, 4, 4)
    teacher = torch.randn(8, 3, 4, 4)
    loss = MGDLoss()
    optimizer = torch.optim.Adam(connector.parameters(), lr=0.01)
    # With a 1x1 convolution only where the widths differ.
    assert len(list(connector.parameters())) == 4 + 2 * (in_channels != 3)
    before = {k: p.clone() for k, p in connector.named_parameters()}
    loss(connector(feature), teacher).backward()
    optimizer.step()
    for name, parameter in connector.named_parameters():
        assert (parameter != before[name]).any(), name


def test_a_place_is_generated_from_its_neighbours(seed):
    """What is masked has no influence; the result there is not zero."""
    connector = MGDConnector(3, 3, mask_on='spatial', mask_ratio=0.5)
    feature = torch.randn(1, 3, 6, 6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        kept = masks_of(connector, torch.ones_like(feature))
        torch.manual_seed(1)
        out = connector(feature)
        torch.manual_seed(1)
        other = connector(torch.where(kept == 0, 100.0, feature))
    assert_close(other, out, rtol=0, atol=0)
    assert (out[kept == 0] != 0).all()


def test_init_cfg_takes_effect_in_generation():
    connector = MGDConnector(
        2,
        3,
        init_cfg=dict(type='Constant', layer='Conv2d', val=3.0, bias=5.0),
    )
    connector.init_weights()
    values = {p.unique().item() for p in connector.parameters()}
    assert values == {3.0, 5.0}

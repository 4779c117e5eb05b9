import pytest
from torch import nn

from mmkd_plugin.models.generators import receptive_field


def test_by_hand():
    # 1 + 2, then 2 more of a dilation of 3 at stride 2: 3 + 12.
    layers = nn.Sequential(
        nn.Conv2d(1, 1, 3, stride=2),
        nn.Sequential(nn.BatchNorm2d(1), nn.LeakyReLU()),
        nn.Conv2d(1, 1, 3, stride=3, dilation=3),
    )
    assert receptive_field(layers) == (15, 6)
    assert receptive_field(
        nn.SyncBatchNorm.convert_sync_batchnorm(layers)
    ) == (
        15,
        6,
    )
    assert receptive_field(nn.Sequential()) == (1, 1)


@pytest.mark.parametrize(
    'layer',
    [nn.ConvTranspose2d(1, 1, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
)
def test_unknown_layers(layer):
    with pytest.raises(
        ValueError, match=f'field of {type(layer).__name__}.* is not known'
    ):
        receptive_field(nn.Sequential(nn.Conv2d(1, 1, 3), layer))


@pytest.mark.parametrize(
    'options',
    [
        dict(kernel_size=(3, 1)),
        dict(kernel_size=3, stride=(1, 2)),
        dict(kernel_size=3, dilation=(2, 1)),
    ],
)
def test_other_than_square(options):
    with pytest.raises(ValueError, match=r'must be square .* got Conv2d'):
        receptive_field(nn.Sequential(nn.Conv2d(1, 1, **options)))

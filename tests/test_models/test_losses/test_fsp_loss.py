import pytest
import torch
from mmengine.registry import MODELS
from torch import nn
from torch.testing import assert_close

from mmkd_plugin.models import FSPLoss, fsp_loss


@pytest.fixture
def taps(seed):
    """Maps of two layers of a student and a teacher, float64."""
    return dict(
        bottom_S=torch.randn(3, 4, 8, 8).double().requires_grad_(),
        top_S=torch.randn(3, 5, 4, 4).double().requires_grad_(),
        bottom_T=torch.randn(3, 4, 6, 6).double(),
        top_T=torch.randn(3, 5, 6, 6).double(),
    )


def test_value_of_maps_of_one_place():
    """There the matrix is the product of two vectors."""
    bottom = torch.tensor([[1.0, 2.0]])[..., None, None]
    top = torch.tensor([[3.0, -1.0]])[..., None, None]
    # [[3, -1], [6, -2]] against zeros.
    value = FSPLoss()(bottom, top, 0 * bottom, top)
    assert value.item() == (9 + 1 + 36 + 4) / 4


def test_equal_flows_of_other_places(taps):
    """One order of places in both layers is nothing; in one, it is not."""
    bottom_T, top_T = taps['bottom_T'], taps['top_T']

    def moved(value):
        return value.flatten(2)[..., torch.randperm(36)].view(value.shape)

    torch.manual_seed(3)
    bottom_S = moved(bottom_T)
    torch.manual_seed(3)
    top_S = moved(top_T)
    assert fsp_loss(bottom_S, top_S, bottom_T, top_T) < 1e-25
    assert fsp_loss(bottom_S, top_T, bottom_T, top_T) > 1e-3


def test_size_of_the_teacher_is_nothing(taps):
    """The mean over places is taken, hence any repetition of them."""
    expected = FSPLoss()(**taps)
    for name in ('bottom_T', 'top_T'):
        taps[name] = taps[name].repeat(1, 1, 2, 3)
    assert_close(FSPLoss()(**taps), expected)


@pytest.mark.parametrize(('pool', 'other'), [('avg', 'max'), ('max', 'avg')])
def test_larger_map_is_pooled(taps, pool, other):
    pooling = dict(avg=nn.AvgPool2d(2), max=nn.MaxPool2d(2))[pool]
    small = dict(taps, bottom_S=pooling(taps['bottom_S']))
    expected = FSPLoss(pool=other)(**small)
    assert_close(FSPLoss(pool=pool)(**taps), expected)
    assert not torch.isclose(FSPLoss(pool=other)(**taps), expected)
    # And so is the upper one, where it is the larger.
    swapped = {
        'bottom_S': taps['top_S'],
        'top_S': taps['bottom_S'],
        'bottom_T': taps['top_T'],
        'top_T': taps['bottom_T'],
    }
    assert_close(FSPLoss(pool=pool)(**swapped), expected)


def test_both_layers_of_the_student_learn(taps):
    FSPLoss()(**taps).backward()
    for name in ('bottom_S', 'top_S'):
        assert taps[name].grad.abs().max() > 1e-4


def test_mapping_names_two_taps_a_side():
    """A config that forgets one is refused when it is built."""

    def tap(from_student, recorder):
        return dict(from_student=from_student, recorder=recorder)

    taps = dict(
        low=dict(type='ModuleOutputs', source='0'),
        high=dict(type='ModuleOutputs', source='1'),
    )
    mapping = dict(
        bottom_S=tap(True, 'low'),
        top_S=tap(True, 'high'),
        bottom_T=tap(False, 'low'),
        top_T=tap(False, 'high'),
    )
    config = dict(
        type='ConfigurableDistiller',
        student_recorders=taps,
        teacher_recorders=taps,
        distill_losses=dict(loss_fsp=dict(type='FSPLoss')),
        loss_forward_mappings=dict(loss_fsp=mapping),
    )
    MODELS.build(config)
    del mapping['top_T']
    with pytest.raises(ValueError, match='top_T'):
        MODELS.build(config)

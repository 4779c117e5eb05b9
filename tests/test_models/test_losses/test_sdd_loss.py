import logging
import math

import pytest
import torch
from mmengine.logging import MMLogger
from torch.nn.functional import conv2d
from torch.testing import assert_close

from mmkd_plugin.models import (
    DKDLoss,
    KLDivergence,
    LogitMapOutputs,
    NKDLoss,
    SDDLoss,
    region_logits,
    sdd_loss,
)


def parts(case, dtype):
    """Get the leaves and the maps of a golden case."""
    tensors = {
        key: torch.tensor(case[key]).to(dtype)
        for key in ('feat_s', 'feat_t', 'fc_w_s', 'fc_b_s', 'fc_w_t', 'fc_b_t')
    }
    for key in ('feat_s', 'fc_w_s'):
        tensors[key].requires_grad_()
    maps = [
        conv2d(
            tensors[f'feat_{side}'],
            tensors[f'fc_w_{side}'][:, :, None, None],
            tensors[f'fc_b_{side}'],
        )
        for side in 'st'
    ]
    return tensors, *maps


def base_losses(case):
    """Get the base losses as the golden vectors have them."""
    number = {
        key: case[key].item()
        for key in (
            'kd_T',
            'dkd_T',
            'dkd_alpha',
            'dkd_beta',
            'nkd_T',
            'nkd_gamma',
        )
    }
    return dict(
        kd=dict(type='KLDivergence', tau=number['kd_T']),
        dkd=dict(
            type='DKDLoss',
            alpha=number['dkd_alpha'],
            beta=number['dkd_beta'],
            tau=number['dkd_T'],
        ),
        nkd=dict(
            type='NKDLoss',
            gamma=number['nkd_gamma'],
            tau=number['nkd_T'],
            mask_target=False,
        ),
    )


def test_golden_regions(golden):
    cases = golden('sdd')
    assert len(cases) >= 12
    for case in cases:
        scales = tuple(case['scales'].tolist())
        for side, maps in zip(
            'st', parts(case, torch.float64)[1:], strict=True
        ):
            assert_close(
                region_logits(maps, scales).permute(1, 2, 0),
                torch.tensor(case[f'region_logits_{side}_f64']),
                rtol=1e-9,
                atol=1e-12,
            )


def test_golden_weights(golden):
    """Each region's weight shows in how the loss depends on its terms."""
    for case in golden('sdd'):
        _, maps_S, maps_T = parts(case, torch.float64)
        weights = torch.tensor(case['region_weight_f64'])
        terms = torch.ones(weights.numel(), dtype=torch.float64)
        terms.requires_grad_()
        value = sdd_loss(
            maps_S,
            maps_T,
            torch.tensor(case['target']),
            base_loss=lambda preds_S, preds_T, terms=terms: terms,
            scales=tuple(case['scales'].tolist()),
        )
        value.sum().backward()
        assert_close(
            terms.grad.view(weights.shape) * weights.numel(),
            weights,
            rtol=1e-12,
            atol=0,
        )
        # Complementary are those of weight 2.
        assert_close(value[1], 2 * (weights == 2).double().mean())


@pytest.mark.parametrize('kind', ['kd', 'dkd', 'nkd'])
@pytest.mark.parametrize(
    ('dtype', 'rtol'), [(torch.float64, 1e-9), (torch.float32, 2e-5)]
)
def test_golden_losses(golden, kind, dtype, rtol):
    for case in golden('sdd'):
        tensors, maps_S, maps_T = parts(case, dtype)
        loss = SDDLoss(
            base_loss=base_losses(case)[kind],
            scales=tuple(case['scales'].tolist()),
        )
        value = loss(maps_S, maps_T, torch.tensor(case['target']))
        expected = torch.tensor(case[f'{kind}_loss_f64'])
        assert_close(value.double(), expected, rtol=rtol, atol=0)
        value.backward()
        for key in ('feat_s', 'fc_w_s'):
            wanted = torch.tensor(case[f'{kind}_grad_{key}_f64'])
            gap = (tensors[key].grad - wanted).abs().max()
            assert gap <= rtol * wanted.abs().max()


@pytest.fixture
def batch(seed):
    """Logit maps of both, float64, and labels."""
    return (
        torch.randn(5, 6, 4, 4, dtype=torch.float64),
        2 * torch.randn(5, 6, 8, 8, dtype=torch.float64),
        torch.tensor([0, 5, 2, 2, 1]),
    )


@pytest.mark.parametrize(
    'base',
    [
        dict(type='KLDivergence', tau=4.0),
        dict(type='DKDLoss'),
        dict(type='NKDLoss'),
    ],
)
@pytest.mark.parametrize('weight_rule', ['label', 'teacher_global'])
def test_scale_one_is_the_plain_loss(batch, base, weight_rule):
    maps_S, maps_T, labels = batch
    value = SDDLoss(base_loss=base, scales=(1,), weight_rule=weight_rule)(
        maps_S, maps_T, labels
    )
    kind = dict(KLDivergence=KLDivergence, DKDLoss=DKDLoss, NKDLoss=NKDLoss)
    options = dict(base)
    plain = kind[options.pop('type')](**options)
    logits = maps_S.mean((2, 3)), maps_T.mean((2, 3))
    wanted = (
        plain(*logits)
        if base['type'] == 'KLDivergence'
        else plain(*logits, labels)
    )
    assert_close(value, wanted, rtol=1e-12, atol=0)


def test_rules_differ_where_both_answers_are_wrong():
    """Globally and locally wrong in different ways: the paper's case."""
    maps_T = torch.tensor([[0.0, 0, 0, 0], [3, 3, 0, 3], [0, 0, 4, 0]])
    maps_T = maps_T.view(1, 3, 2, 2)
    # The whole says 1, the third cell 2, the label is 0.
    terms = {}
    for rule in ('label', 'teacher_global'):
        consistent, complementary = sdd_loss(
            torch.zeros(1, 3, 2, 2),
            maps_T,
            torch.tensor([0]),
            base_loss=lambda preds_S, preds_T: torch.ones(len(preds_S)),
            scales=(1, 2),
            weight_rule=rule,
        )
        terms[rule] = consistent.item(), complementary.item()
    assert terms['label'] == (1.0, 0.0)
    assert terms['teacher_global'] == pytest.approx((0.8, 2 * 0.2))


def test_teacher_global_reads_no_labels(batch):
    maps_S, maps_T, labels = batch
    loss = SDDLoss(weight_rule='teacher_global')
    assert loss.required_arguments == ()
    value = loss(maps_S, maps_T)
    assert_close(value, loss(maps_S, maps_T, labels), rtol=0, atol=0)
    assert SDDLoss().required_arguments == ('gt_labels',)
    nkd = SDDLoss(base_loss=dict(type='NKDLoss'), weight_rule='teacher_global')
    assert nkd.required_arguments == ('gt_labels',)


def test_terms_for_the_log_add_up(batch):
    loss = SDDLoss(loss_weight=0.9)
    assert loss.log_terms == {}
    maps_S = batch[0].requires_grad_()
    value = loss(maps_S, *batch[1:])
    terms = loss.log_terms
    assert list(terms) == ['consistent', 'complementary']
    assert not any(term.requires_grad for term in terms.values())
    assert_close(sum(terms.values()), value.detach(), rtol=1e-12, atol=0)
    assert all(term > 0 for term in terms.values())
    alone = SDDLoss(loss_weight=0.9, complementary_weight=0)
    assert_close(alone(*batch), terms['consistent'], check_dtype=False)


def test_sum_is_the_mean_times_the_regions(batch):
    ratio = SDDLoss(reduction='sum')(*batch) / SDDLoss()(*batch)
    assert ratio.item() == pytest.approx(21)


def test_nested_pooling_of_seven_is_no_mean():
    """As the published code has it for ImageNet's 7x7 maps."""
    maps = torch.zeros(1, 2, 7, 7, dtype=torch.float64)
    maps[0, 0, 3, 3] = 49
    nested = region_logits(maps, (1, 2))[0, 0, 0]
    plain = region_logits(maps, (1, 2), nested_pool=False)[0, 0, 0]
    assert plain.item() == pytest.approx(1.0)
    assert nested.item() != pytest.approx(1.0, rel=0.3)
    for size in (4, 8, 12):
        maps = torch.randn(2, 3, size, size, dtype=torch.float64)
        assert_close(
            region_logits(maps), region_logits(maps, nested_pool=False)
        )


def test_map_made_by_the_coarser_grid_gives_the_same(batch):
    """What LogitMapOutputs(grid_size=4) relies on."""
    maps_S, _, labels = batch
    maps_T = 2 * torch.randn(5, 6, 7, 9, dtype=torch.float64)
    grid = torch.nn.functional.adaptive_avg_pool2d(maps_T, 4)
    loss = SDDLoss()
    assert_close(
        loss(maps_S, grid, labels),
        loss(maps_S, maps_T, labels),
        rtol=1e-12,
        atol=0,
    )


def test_regions_in_inference_mode_first():
    """A matrix cached there must still serve a training step."""
    maps = torch.randn(2, 3, 6, 11, dtype=torch.float64)
    with torch.inference_mode():
        region_logits(maps, (1, 3))
    maps.requires_grad_()
    region_logits(maps, (1, 3)).sum().backward()
    assert_close(maps.grad.sum(), torch.tensor(2 * 3 * 10.0).double())


@pytest.fixture
def warnings_seen():
    """Collect what the engine's logger is told."""
    seen = []

    class Handler(logging.Handler):
        def emit(self, record):
            seen.append(record.getMessage())

    logger = MMLogger.get_current_instance()
    handler = Handler(level=logging.WARNING)
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def test_small_map_warns_once(warnings_seen):
    maps = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 8, 8)
    loss = SDDLoss(weight_rule='teacher_global')
    for _ in range(3):
        loss(*maps)
    assert len(warnings_seen) == 1
    assert 'map of the student is 2x2' in warnings_seen[0]
    assert 'finest grid of 4x4' in warnings_seen[0]
    SDDLoss(weight_rule='teacher_global', scales=(1, 2))(*maps)
    assert len(warnings_seen) == 1


@pytest.mark.parametrize(
    'base', ['KLDivergence', 'DKDLoss', 'NKDLoss'], ids=str
)
def test_margin_of_500_at_temperature_4(base):
    """Where the published code returns a zero without a gradient."""
    maps_S = torch.zeros(2, 4, 4, 4)
    maps_S[:, 1] = 500
    maps_T = torch.zeros(2, 4, 4, 4)
    maps_T[:, 0] = 500
    maps_S.requires_grad_()
    loss = SDDLoss(base_loss=dict(type=base, tau=4.0))
    value = loss(maps_S, maps_T, torch.tensor([0, 1]))
    value.backward()
    assert math.isfinite(value.item())
    assert value > 100
    assert maps_S.grad.isfinite().all()
    assert maps_S.grad.abs().max() > 1e-3


@pytest.mark.parametrize('base', ['KLDivergence', 'DKDLoss', 'NKDLoss'])
@pytest.mark.parametrize('weight_rule', ['label', 'teacher_global'])
def test_no_synchronisation_in_a_step(base, weight_rule):
    """On the device without values, whatever waits for one is an error."""
    meta = torch.device('meta')
    maps_S = torch.zeros(5, 6, 4, 4, device=meta, requires_grad=True)
    maps_T = torch.zeros(5, 6, 8, 8, device=meta)
    labels = torch.zeros(5, dtype=torch.long, device=meta)
    loss = SDDLoss(base_loss=dict(type=base), weight_rule=weight_rule)
    loss(maps_S, maps_T, labels).backward()
    assert maps_S.grad.shape == maps_S.shape
    # It is indeed one.
    for wait in (
        lambda: maps_T.sum().item(),
        lambda: bool(maps_T.sum() > 0),
        lambda: maps_T[maps_T > 0],
        lambda: maps_T.cpu(),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()


def test_compiled(batch):
    """One graph, in which the regions are a constant."""
    loss = SDDLoss()
    compiled = torch.compile(loss, backend='aot_eager')
    for _ in range(2):
        assert_close(compiled(*batch), loss(*batch), rtol=1e-12, atol=0)


def test_small_map_after_large_ones_warns(warnings_seen):
    loss = SDDLoss(weight_rule='teacher_global')
    large = torch.randn(2, 3, 8, 8)
    loss(large, large)
    assert not warnings_seen
    loss(large[..., :2, :2], large)
    assert len(warnings_seen) == 1


@pytest.mark.parametrize(
    ('options', 'grid_size', 'wanted'),
    [
        (dict(), 4, None),
        (dict(), None, None),
        (dict(nested_pool=False), None, None),
        (dict(scales=(1, 8)), 8, None),
        (dict(nested_pool=False), 4, None),
        (dict(scales=(1, 2, 8)), 4, 8),
        (dict(), 8, 4),
    ],
)
def test_grid_of_the_recorder(options, grid_size, wanted):
    loss = SDDLoss(**options)
    recorders = dict(preds_S=LogitMapOutputs(grid_size=grid_size))
    fits = grid_size is None or grid_size == (
        max(4, *loss.scales) if loss.nested_pool else None
    )
    if fits:
        loss.check_recorders(recorders)
        return
    needed = 'None$' if wanted is None else f'None or {wanted}$'
    with pytest.raises(
        ValueError, match=f'grid_size={grid_size}, .* need grid_size={needed}'
    ):
        loss.check_recorders(recorders)

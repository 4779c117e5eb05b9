"""A run whose loss breaks."""

import math

import pytest
import torch
from mmengine.registry import HOOKS
from toy_runs import Terms, build_runner, loader, make_dataset

from mmkd_plugin.engine.hooks import NonFiniteLossHook
from mmkd_plugin.engine.resume import find_resume_checkpoint

NAN, INF = math.nan, math.inf


def run(tmp_path, model, by_epoch=True, save=1, **kwargs):
    """12 iterations, three an epoch, unless the loss breaks."""
    runner = build_runner(
        tmp_path,
        model,
        loader(make_dataset(12 if by_epoch else 48)),
        [dict(type='NonFiniteLossHook')],
        train_cfg=(
            dict(by_epoch=True, max_epochs=4)
            if by_epoch
            else dict(by_epoch=False, max_iters=12)
        ),
        default_hooks=dict(
            logger=None,
            checkpoint=dict(
                type='SafeCheckpointHook', interval=save, by_epoch=by_epoch
            ),
        ),
        **kwargs,
    )
    runner.train()


def checkpoints(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def check_finite(path):
    checkpoint = torch.load(path, weights_only=False)
    for tensor in checkpoint['state_dict'].values():
        assert torch.isfinite(tensor).all()


def test_registered():
    assert HOOKS.get('NonFiniteLossHook') is NonFiniteLossHook


def test_a_good_run_is_left_alone(tmp_path):
    run(tmp_path, Terms())
    assert len(checkpoints(tmp_path)) == 4


@pytest.mark.parametrize('value', [NAN, INF, -INF])
def test_run_stops_and_names_the_term(tmp_path, value):
    # In the second iteration of the third epoch.
    model = Terms({8: (1, value)})
    with pytest.raises(FloatingPointError) as error:
        run(tmp_path, model)
    last = tmp_path / 'epoch_2.pth'
    message = str(error.value)
    assert message.startswith('the loss loss_b became NaN or infinite in ')
    assert 'in iteration 8. ' in message
    assert f'last good checkpoint is {last}.' in message
    assert 'learning rate' in message
    assert model.calls == 8
    assert checkpoints(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert find_resume_checkpoint(str(tmp_path)) == str(last)
    check_finite(last)


def test_it_stops_at_once(tmp_path):
    """One iteration later, all terms would be broken."""
    model = Terms({7: (NAN, 1)})
    with pytest.raises(FloatingPointError, match='the loss loss_a became'):
        run(tmp_path, model, by_epoch=False, save=100)
    assert model.calls == 7


def test_two_terms_at_once(tmp_path):
    with pytest.raises(FloatingPointError, match='the loss loss_a, loss_b b'):
        run(tmp_path, Terms({3: (INF, NAN)}))


def test_a_sum_that_overflows(tmp_path):
    model = Terms({1: (3e38, 1e38)})
    model.weight.data.copy_(torch.tensor([1.0, 0.0]))
    with pytest.raises(FloatingPointError, match='the loss loss became'):
        run(tmp_path, model)


@pytest.mark.parametrize('broken', [1, 3, 5, 6, 7, 9, 12])
def test_no_broken_checkpoint(tmp_path, broken):
    model = Terms({broken: (1, NAN)})
    with pytest.raises(FloatingPointError, match='loss_b became NaN'):
        run(tmp_path, model, by_epoch=False, save=3)
    good = [3 * i for i in range(1, 5) if 3 * i < broken]
    assert checkpoints(tmp_path) == sorted(f'iter_{i}.pth' for i in good)
    for name in checkpoints(tmp_path):
        check_finite(tmp_path / name)
    expected = str(tmp_path / f'iter_{good[-1]}.pth') if good else None
    assert find_resume_checkpoint(str(tmp_path)) == expected


class BreaksTheWeights(Terms):
    """The loss is a number, its gradient is none."""

    def forward(self, *args, **kwargs):
        losses = super().forward(*args, **kwargs)
        if self.calls == 6:
            zero = self.weight[1] - self.weight[1]
            losses['loss_b'] = torch.sqrt(zero)
        return losses


def test_weights_that_break_in_the_last_step(tmp_path):
    with pytest.raises(
        FloatingPointError, match='the weights weight became'
    ) as error:
        run(tmp_path, BreaksTheWeights())
    assert 'epoch_1.pth' in str(error.value)
    assert checkpoints(tmp_path) == ['epoch_1.pth']
    check_finite(tmp_path / 'epoch_1.pth')


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(
        FloatingPointError, match='checkpoint is none: none was saved'
    ):
        run(tmp_path, Terms({1: (NAN, 1)}))

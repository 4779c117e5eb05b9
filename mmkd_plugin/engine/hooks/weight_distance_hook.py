"""How far the weights have gone since the start of the training."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import IterBasedTrainLoop, Runner
from mmpretrain.utils import get_ori_model
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_choice, nearest

from ..report import finite, write_file

GRANULARITIES = ('step', 'epoch')
_STATE_KEY = 'weight_distance'
_FILE = 'weight_distance.json'
# Values that are reduced at once.
_PART = 2**18


def trained_network(runner: Runner) -> nn.Module:
    """Get the student of a run, or its model where there is no student.

    Args:
        runner (Runner): The runner.

    Returns:
        nn.Module: The network, without a wrapper for several processes.
    """
    model = get_ori_model(runner.model)
    return getattr(model, 'student', model)


def check_by_epoch(hook: Hook, runner: Runner) -> None:
    """Check that a run has epochs.

    Args:
        hook (Hook): The hook that needs them.
        runner (Runner): The runner.

    Raises:
        ValueError: If its training loop counts iterations only.
    """
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        raise ValueError(
            f'{type(hook).__name__} needs a run by epochs, but got '
            f'{type(runner.train_loop).__name__}; take train_cfg=dict('
            f'by_epoch=True, max_epochs=...)'
        )


@HOOKS.register_module()
class WeightDistanceHook(Hook):
    r"""Measure the path length of the weights.

    .. math::
        d(m) = \sum_{k \le m} \frac{\|w_k - w_{k-1}\|}{\|w_0\|}

    The norm is that of all chosen parameters as one vector; the sum is in
    float64. The values after every epoch, and 0 for epoch 0, are in
    ``<work_dir>/weight_distance.json``: under ``epochs`` a list with
    ``epoch``, ``iteration``, ``path_length`` (the sum of the norms) and
    ``distance`` (d), besides ``granularity``, ``parameters`` (the names) and
    ``initial_norm``. The state is in the checkpoint, and a resumed run has
    the distances of an uninterrupted one. Only the weights of the student are
    measured, where there is one; every process must have them whole.

    Nothing waits for the device but at the end of an epoch. Memory: two copies
    of the chosen parameters, on their device.

    Reference:
        Cheng et al., Explaining Knowledge Distillation by Quantifying the
        Knowledge, CVPR 2020, https://arxiv.org/abs/2003.03622. k is said to
        count epochs, in a second-hand description (``'epoch'``). The released
        code sums over mini-batches (``'step'``), which is much longer, and
        over the weight tensor of the analysed layer alone.

    Args:
        granularity (str): Between what the weights are compared,
            ``'step'`` (every iteration) or ``'epoch'``. Defaults to
            ``'step'``.
        parameters (Sequence[str], optional): Names of parameters, or of
            modules, all of whose parameters count, as in
            ``['backbone.layer4', 'head.fc.weight']``; in the student, where
            there is one. Defaults to None, which is all, frozen ones too.
    """

    # Before CheckpointHook, which has VERY_LOW.
    priority = 'NORMAL'

    def __init__(
        self,
        *,
        granularity: str = 'step',
        parameters: Optional[Sequence[str]] = None,
    ) -> None:
        check_choice('granularity', granularity, GRANULARITIES)
        if parameters is not None and (
            isinstance(parameters, str)
            or not parameters
            or not all(isinstance(name, str) and name for name in parameters)
        ):
            raise ValueError(
                f'parameters must be a list of names of parameters or '
                f'modules, or None for all, but got {parameters!r}'
            )
        self.granularity = granularity
        self.parameters = parameters
        self._restored: Optional[dict] = None
        self._chosen: dict[str, nn.Parameter] = {}
        self._initial_norm = 0.0
        self._epochs: list[dict] = []
        # Iterations since the weights were compared.
        self._pending = 0

    def _choose(self, network: nn.Module) -> dict[str, nn.Parameter]:
        found = dict(network.named_parameters())
        if self.parameters is None:
            return found
        modules = {name for name, _ in network.named_modules() if name}
        unknown, chosen = [], set()
        for wanted in self.parameters:
            names = {
                name
                for name in found
                if name == wanted or name.startswith(f'{wanted}.')
            }
            if not names:
                hint = (
                    'a module without parameters'
                    if wanted in modules
                    else nearest(wanted, {*found, *modules})
                )
                unknown.append(f'{wanted!r} ({hint})')
            chosen |= names
        if unknown:
            raise ValueError(
                f'parameters must be names of parameters or modules of '
                f'{type(network).__name__}, but got {", ".join(unknown)}'
            )
        return {name: p for name, p in found.items() if name in chosen}

    @torch.no_grad()
    def _weights(self, out: Optional[Tensor] = None) -> Tensor:
        """Copy the chosen parameters into one vector."""
        return torch.cat([p.flatten() for p in self._chosen.values()], out=out)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the state of a checkpoint.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        self._restored = checkpoint.get(_STATE_KEY)

    def before_train(self, runner: Runner) -> None:
        """Take the weights to start from, or go on from a checkpoint.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If the run has no epochs or another hook of this
                kind, a name is unknown, all weights are 0, or the checkpoint
                that is resumed lacks the distance so far or has another one.
        """
        check_by_epoch(self, runner)
        if sum(isinstance(x, WeightDistanceHook) for x in runner.hooks) > 1:
            raise ValueError(
                'a run can have one WeightDistanceHook only: two would write '
                'the same file'
            )
        self._chosen = self._choose(trained_network(runner))
        # Of the weights as they are now, not as a checkpoint holds them,
        # which may be averages.
        self._last = self._weights()
        self._spare = torch.empty_like(self._last)
        self._pending = 0
        if runner.iter > 0:
            self._go_on(self._restored)
        else:
            self._initial_norm = _norm(self._last).item()
            if not 0 < self._initial_norm < math.inf:
                raise ValueError(
                    f'the norm of the initial weights must be > 0, as '
                    f'distances are divided by it, but it is '
                    f'{self._initial_norm}; the parameters are '
                    f'{", ".join(list(self._chosen)[:8])}'
                )
            self._path = torch.zeros(
                (), dtype=torch.float64, device=self._last.device
            )
            self._epochs = []
            self._note(epoch=0, iteration=0)
        self._restored = None
        if is_main_process():
            self._write(runner)

    def _go_on(self, state: Optional[dict]) -> None:
        if state is None:
            raise ValueError(
                'the checkpoint was saved without WeightDistanceHook: the '
                'distance so far, and the weights at the start, are unknown. '
                'Train from the start, or remove the hook'
            )
        for name, value in dict(
            granularity=self.granularity, parameters=list(self._chosen)
        ).items():
            if state[name] != value:
                raise ValueError(
                    f'{name} of WeightDistanceHook must be as in the run '
                    f'that is resumed, {_short(state[name])}, but got '
                    f'{_short(value)}'
                )
        self._initial_norm = state['initial_norm']
        self._path = torch.tensor(
            state['path_length'],
            dtype=torch.float64,
            device=self._last.device,
        )
        self._epochs = [dict(entry) for entry in state['epochs']]
        self._pending = state['pending']
        if state['last'] is not None:
            self._last.copy_(state['last'])

    @torch.no_grad()
    def _compare(self) -> None:
        weights = self._weights(out=self._spare)
        # In place: the weights before are not needed any more.
        self._path += _norm(self._last.sub_(weights))
        self._last, self._spare = weights, self._last
        self._pending = 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Add the way of this iteration.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch. Defaults to None.
            outputs (dict, optional): The loss terms. Defaults to None.
        """
        self._pending += 1
        if self.granularity == 'step':
            self._compare()

    def after_train_epoch(self, runner: Runner) -> None:
        """Note the distance, and write it.

        Args:
            runner (Runner): The runner.
        """
        if self.granularity == 'epoch':
            self._compare()
        self._note(epoch=runner.epoch + 1, iteration=runner.iter)
        if is_main_process():
            self._write(runner)

    def _note(self, epoch: int, iteration: int) -> None:
        path_length = self._path.item()
        self._epochs.append(
            dict(
                epoch=epoch,
                iteration=iteration,
                path_length=path_length,
                distance=path_length / self._initial_norm,
            )
        )

    def _write(self, runner: Runner) -> None:
        content = dict(
            granularity=self.granularity,
            parameters=list(self._chosen),
            initial_norm=self._initial_norm,
            epochs=[
                dict(
                    entry,
                    path_length=finite(entry['path_length']),
                    distance=finite(entry['distance']),
                )
                for entry in self._epochs
            ],
        )
        write_file(
            Path(runner.work_dir) / _FILE,
            json.dumps(content, indent=1, allow_nan=False),
        )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the distance so far into a checkpoint.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is to be saved.
        """
        checkpoint[_STATE_KEY] = dict(
            granularity=self.granularity,
            parameters=list(self._chosen),
            initial_norm=self._initial_norm,
            path_length=self._path.item(),
            epochs=[dict(entry) for entry in self._epochs],
            pending=self._pending,
            # Elsewhere they are the model's own weights.
            last=self._last.cpu() if self._pending else None,
        )


def _norm(values: Tensor) -> Tensor:
    # In parts, since the CPU makes a float64 copy of what it reduces.
    norm = torch.linalg.vector_norm
    parts = [norm(p, dtype=torch.float64) for p in values.split(_PART)]
    return norm(torch.stack(parts))


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f'{text[:200]}...'

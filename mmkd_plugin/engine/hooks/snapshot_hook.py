"""The weights of chosen epochs, for a look back at the training."""

import io
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import weights_to_cpu

from ..report import write_file
from .weight_distance_hook import check_by_epoch, trained_network

#: Epochs whose weights the released code of the knowledge points reads.
SNAPSHOT_EPOCHS = (
    *(0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 70, 90, 110, 130, 150),
    *(170, 190, 240, 280, 320, 360, 400),
)


@HOOKS.register_module()
class SnapshotHook(Hook):
    """Keep the weights of chosen epochs and of the last one.

    They are in ``<work_dir>/snapshots/epoch_N.pth``, where epoch 0 is before
    training, as ``dict(state_dict, meta)``: the student's weights under its
    own names, where there is a student, else those of the model. The files
    are written whole or not at all, and stay whatever ``CheckpointHook``
    deletes. Those that another run left in the folder, or this one after the
    checkpoint that it is resumed from, are moved to ``snapshots/before_N``.
    With ``EMAHook`` they hold the trained weights, not the averages.

    Reference:
        Cheng et al., Explaining Knowledge Distillation by Quantifying the
        Knowledge, CVPR 2020, https://arxiv.org/abs/2003.03622: the default
        epochs are those of the released code.

    Args:
        epochs (Sequence[int]): Increasing numbers of epochs; those beyond the
            end of the run have no effect. Defaults to 0, 2, 5, 10, 15, 20,
            25, 30, 40, 50, then every 20 to 190, then every 40 or 50 to 400.
    """

    priority = 'NORMAL'

    def __init__(self, *, epochs: Sequence[int] = SNAPSHOT_EPOCHS) -> None:
        good = isinstance(epochs, Sequence) and not isinstance(epochs, str)
        if (
            not good
            or not epochs
            or any(type(epoch) is not int or epoch < 0 for epoch in epochs)
            or sorted(set(epochs)) != list(epochs)
        ):
            raise ValueError(
                f'epochs must be increasing integers >= 0, for example '
                f'(0, 2, 5, 10), but got {epochs!r}'
            )
        self.epochs = tuple(epochs)

    def before_train(self, runner: Runner) -> None:
        """Keep the weights before training.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: If the run has no epochs.
        """
        check_by_epoch(self, runner)
        if not is_main_process():
            return
        # What lies there from later epochs is not of this run, or was
        # written before it went back to a checkpoint.
        later = [
            path.name
            for path in sorted(_folder(runner).glob('epoch_*.pth'))
            if _epoch(path) > runner.epoch or runner.iter == 0
        ]
        if later:
            aside = _put_aside(_folder(runner), later)
            runner.logger.warning(
                f'{_folder(runner)} had snapshots of another run, or of '
                f'later epochs: {", ".join(later)}. They are in {aside} now'
            )
        if runner.iter == 0 and 0 in self.epochs:
            self._save(runner, 0)

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep the weights of this epoch, if it is one of the chosen.

        Args:
            runner (Runner): The runner.
        """
        if runner.epoch + 1 in self.epochs and is_main_process():
            self._save(runner, runner.epoch + 1)

    def after_train(self, runner: Runner) -> None:
        """Keep the weights of the last epoch.

        Args:
            runner (Runner): The runner.
        """
        if runner.epoch not in self.epochs and is_main_process():
            self._save(runner, runner.epoch)

    @staticmethod
    def _save(runner: Runner, epoch: int) -> None:
        meta = dict(epoch=epoch, iter=runner.iter, seed=runner.seed)
        dataset = runner.train_dataloader.dataset
        classes = getattr(dataset, 'metainfo', {}).get('classes')
        # `get_model` of mmpretrain takes the names from here.
        meta['dataset_meta'] = dict(classes=list(classes)) if classes else {}
        state_dict = weights_to_cpu(trained_network(runner).state_dict())
        buffer = io.BytesIO()
        torch.save(dict(state_dict=state_dict, meta=meta), buffer)
        path = _folder(runner) / f'epoch_{epoch}.pth'
        write_file(path, buffer.getvalue())


def _folder(runner: Runner) -> Path:
    return Path(runner.work_dir) / 'snapshots'


def _put_aside(folder: Path, names: Sequence[str]) -> Path:
    """Move files into a new folder beside them."""
    number = 1
    while (folder / f'before_{number}').exists():
        number += 1
    aside = folder / f'before_{number}'
    aside.mkdir()
    for name in names:
        (folder / name).rename(aside / name)
    return aside


def _epoch(path: Path) -> int:
    match = re.fullmatch(r'epoch_(\d+)', path.stem)
    return int(match[1]) if match else -1

"""Checkpoints that survive a kill at any moment."""

import glob
import os
import re
from pathlib import Path
from typing import Union

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmkd_plugin.utils.atomic import atomic_write
from mmkd_plugin.utils.checks import nearest

_BACKEND = 'atomic_local'


class AtomicLocalBackend(LocalBackend):
    """The local disk, where a file appears as a whole or not at all."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write a file.

        Args:
            obj (bytes): The content.
            filepath (str or Path): The file.
        """
        os.makedirs(os.path.dirname(os.path.abspath(filepath)), exist_ok=True)
        with atomic_write(os.fspath(filepath)) as file:
            file.write(obj)


register_backend(_BACKEND, AtomicLocalBackend, force=True)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, safe against a kill at any moment.

    The stock hook deletes the oldest checkpoint before it writes the new
    one, and writes checkpoints and the file ``last_checkpoint`` in place: a
    kill in between leaves none, or a part of one. Here a checkpoint is
    written under a temporary name and renamed, then ``last_checkpoint``
    likewise, then old ones are deleted. The same holds for the best one.

    Args:
        *args: Arguments of :class:`mmengine.hooks.CheckpointHook`.
        **kwargs: Likewise. ``backend_args`` defaults to the local disk with
            atomic writes.
    """

    def __init__(self, *args, **kwargs) -> None:
        kwargs.setdefault('backend_args', dict(backend=_BACKEND))
        super().__init__(*args, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Remove what a killed run left half written.

        Args:
            runner (Runner): The runner.
        """
        super().before_train(runner)
        if not is_main_process():
            return
        name = re.sub(r'\{[^}]*\}', '*', self.filename_tmpl)
        for folder, pattern in (
            (self.out_dir, name),
            (self.out_dir, f'best_*_{name}'),
            (runner.work_dir, 'last_checkpoint'),
        ):
            # Eight random characters are what atomic_write puts behind.
            for part in glob.glob(
                os.path.join(glob.escape(folder), f'.{pattern}.????????')
            ):
                os.unlink(part)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        for name in self.key_indicators:
            if name != 'auto' and name not in metrics:
                raise ValueError(
                    f'save_best: there is no metric {name!r}; '
                    f'{nearest(name, metrics)}'
                )
        single = len(self.key_indicators) == 1
        # The stock method removes the best one before it writes the next,
        # unless it knows of none.
        if single:
            before, self.best_ckpt_path = [self.best_ckpt_path], None
        else:
            names = list(self.best_ckpt_path_dict)
            before = list(self.best_ckpt_path_dict.values())
            self.best_ckpt_path_dict = dict.fromkeys(names)
        super()._save_best_checkpoint(runner, metrics)
        if single:
            after = [self.best_ckpt_path]
            self.best_ckpt_path = after[0] or before[0]
        else:
            after = [self.best_ckpt_path_dict[name] for name in names]
            self.best_ckpt_path_dict = {
                name: new or old
                for name, new, old in zip(names, after, before, strict=True)
            }
        for new, old in zip(after, before, strict=True):
            if new and old and new != old:
                self._remove(old)

    def _remove(self, path: str) -> None:
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _save_checkpoint_with_step(
        self, runner: Runner, step: int, meta: dict
    ) -> None:
        stale = []
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                stale.append(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info(
                'keep_ckpt_ids', list(self.keep_ckpt_ids)
            )
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        with atomic_write(
            os.path.join(runner.work_dir, 'last_checkpoint')
        ) as file:
            file.write(self.last_ckpt.encode())
        for old in stale:
            self._remove(
                self.file_backend.join_path(
                    self.out_dir, self.filename_tmpl.format(old)
                )
            )

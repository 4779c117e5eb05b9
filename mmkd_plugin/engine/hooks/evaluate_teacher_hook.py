"""Measure the teachers once, before the first iteration."""

from collections.abc import Callable
from functools import partial
from typing import Optional

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model
from torch import Tensor, nn

#: Where the metrics lie in the runner's message hub.
TEACHER_METRICS = 'teacher_metrics'


@HOOKS.register_module()
class EvaluateTeacherHook(Hook):
    """Evaluate each frozen teacher on the validation set, once.

    A teacher that was loaded wrongly, or that meets images normalised in
    another way than those it learned from, shows here and not after a day of
    training. The metrics are logged, and kept in the message hub under
    ``'teacher_metrics'``, from where they get into checkpoints; a resumed run
    does not measure again. Of several teachers, the metrics are there by the
    teachers' names. Without a validation set nothing is done.
    """

    priority = 'NORMAL'

    @torch.no_grad()
    def before_train(self, runner: Runner) -> None:
        """Evaluate and log.

        Args:
            runner (Runner): The runner.
        """
        hub = runner.message_hub
        model = get_ori_model(runner.model)
        measured = hub.get_info(TEACHER_METRICS) is not None
        if measured or runner.val_loop is None:
            return
        if hasattr(model, 'teacher'):
            metrics = self._measure(runner, model.teacher, 'teacher')
        elif hasattr(model, 'teachers'):
            metrics = {
                name: self._measure(
                    runner,
                    teacher,
                    f'teacher {name!r}',
                    partial(model.images_of, name),
                )
                for name, teacher in model.teachers.items()
            }
        else:
            return
        hub.update_info(TEACHER_METRICS, metrics)

    @staticmethod
    def _measure(
        runner: Runner,
        teacher: nn.Module,
        what: str,
        images_of: Optional[Callable[[Tensor], Tensor]] = None,
    ) -> dict[str, float]:
        """Evaluate a teacher; ``images_of`` makes the images it knows."""
        model, loop = get_ori_model(runner.model), runner.val_loop
        for batch in loop.dataloader:
            data = model.data_preprocessor(batch, False)
            if images_of is not None:
                data['inputs'] = images_of(data['inputs'])
            outputs = teacher(**data, mode='predict')
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
        metrics = loop.evaluator.evaluate(len(loop.dataloader.dataset))
        # Some metrics are matrices or lists, one number a class.
        metrics = {
            name: float(value)
            for name, value in metrics.items()
            if np.ndim(value) == 0
        }
        shown = ', '.join(f'{k}: {v:.4f}' for k, v in metrics.items())
        print_log(f'{what} on the validation set: {shown}', 'current')
        return metrics

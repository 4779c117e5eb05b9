"""Schedules that move every few iterations."""

from typing import Optional

from mmengine.hooks import ParamSchedulerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmkd_plugin.utils.checks import check_count


@HOOKS.register_module()
class IntervalParamSchedulerHook(ParamSchedulerHook):
    """mmengine's ``ParamSchedulerHook``, only every few iterations.

    MosaicKD's training script moves the student's learning rate once for
    each update of the generator, that is, every five steps of the student.
    Lengths of iteration-based schedules are then counted in these intervals.
    Epoch-based ones are as usual.

    Args:
        interval (int): Iterations from one step of the schedules to the
            next.

    Raises:
        ValueError: If the interval is no integer of 1 or more.
    """

    def __init__(self, *, interval: int) -> None:
        check_count('interval', interval)
        self.interval = interval

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Step the iteration-based schedules, if it is time.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch. Defaults to None.
            outputs (dict, optional): The loss terms. Defaults to None.
        """
        if self.every_n_train_iters(runner, self.interval):
            super().after_train_iter(runner, batch_idx, data_batch, outputs)

"""Stop when a loss is no longer a number."""

from typing import NoReturn, Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint
from mmpretrain.utils import get_ori_model

from mmkd_plugin.utils.finite import find_non_finite

_ADVICE = (
    'Lower the learning rate or the loss weight, or clip gradients '
    '(optim_wrapper.clip_grad)'
)


def stop_not_finite(
    runner: Runner, what: str, advice: str = _ADVICE
) -> NoReturn:
    """Stop a run, and say from where it can go on.

    Args:
        runner (Runner): The runner.
        what (str): What is not finite.
        advice (str): What may help. Defaults to what helps a model.

    Raises:
        FloatingPointError: Always.
    """
    last = find_latest_checkpoint(runner.work_dir)
    raise FloatingPointError(
        f'{what} became NaN or infinite in iteration {runner.iter + 1}. '
        f'The last good checkpoint is {last or "none: none was saved"}. '
        f'{advice}'
    )


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop the run when a loss becomes NaN or infinite, and name the term.

    Every iteration is looked at, which costs nothing: the engine reads all
    loss terms for its log anyway. Weights and buffers are looked at before a
    checkpoint is written, so the last one on disk is always good.

    Raises:
        FloatingPointError: From within the run, naming the terms, the
            iteration and the last checkpoint.
    """

    # Before CheckpointHook, which has VERY_LOW.
    priority = 'NORMAL'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Look at the loss terms.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch. Defaults to None.
            outputs (dict, optional): The loss terms. Defaults to None.
        """
        names = [
            name
            for name, value in (outputs or {}).items()
            if 'loss' in name and not torch.isfinite(torch.as_tensor(value))
        ]
        # The sum is broken whenever a term is: name it only if no term is.
        terms = [name for name in names if name != 'loss'] or names
        if terms:
            stop_not_finite(runner, f'the loss {", ".join(terms)}')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save broken weights.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is to be saved.
        """
        model = get_ori_model(runner.model)
        broken = find_non_finite(model.state_dict())
        if broken is not None:
            stop_not_finite(runner, f'the weights {broken}')

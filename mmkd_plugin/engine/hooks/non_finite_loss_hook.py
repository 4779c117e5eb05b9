"""Stop when a loss is no longer a number."""

from typing import Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner, find_latest_checkpoint

from mmkd_plugin.utils.checks import check_number


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop the run when a loss becomes NaN or infinite, and name the term.

    The check is added up on the device and read every ``interval``
    iterations and before every checkpoint, so it does not make the host wait
    in every step, and no checkpoint with broken weights is ever written: the
    last one on disk is good.

    Args:
        interval (int): Iterations between two looks. Defaults to 50.

    Raises:
        FloatingPointError: From within the run, naming the terms, the
            iteration by which it happened and the last checkpoint.
    """

    # Before CheckpointHook, which has VERY_LOW.
    priority = 'NORMAL'

    def __init__(self, interval: int = 50) -> None:
        self.interval = check_number('interval', interval, least=1)
        self._broken = {}
        self._seen = False

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Note which terms were the first that are not finite.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch. Defaults to None.
            outputs (dict, optional): The loss terms. Defaults to None.
        """
        # The step after it breaks the weights, and these all other terms.
        before = torch.as_tensor(self._seen)
        for name, value in (outputs or {}).items():
            if 'loss' not in name:
                continue
            bad = ~torch.isfinite(torch.as_tensor(value)).all()
            first = bad & ~before.to(bad.device)
            self._broken[name] = self._broken.get(name, False) | first
            self._seen = self._seen | bad
        if self.every_n_train_iters(runner, self.interval):
            self._look(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save broken weights.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is to be saved.
        """
        self._look(runner)
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        for name, value in model.state_dict().items():
            if not torch.isfinite(value).all():
                self._stop(runner, f'the weights {name}')

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the end of an epoch.

        Args:
            runner (Runner): The runner.
        """
        self._look(runner)

    def _look(self, runner: Runner) -> None:
        names = [k for k, bad in self._broken.items() if bool(bad)]
        # The sum is broken whenever a term is: name it only if no term is.
        terms = [name for name in names if name != 'loss'] or names
        self._broken = {}
        self._seen = False
        if terms:
            self._stop(runner, f'the loss {", ".join(terms)}')

    @staticmethod
    def _stop(runner: Runner, what: str) -> None:
        last = find_latest_checkpoint(runner.work_dir)
        raise FloatingPointError(
            f'{what} became NaN or infinite by iteration {runner.iter + 1}. '
            f'The last good checkpoint is {last or "none: none was saved"}. '
            f'Lower the learning rate or the loss weight, or clip gradients '
            f'(optim_wrapper.clip_grad)'
        )

"""Several optimizers that take their steps together."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_count


class StudentAmpOptimWrapper(AmpOptimWrapper):
    """mmengine's ``AmpOptimWrapper``, whose scaler belongs to others as well.

    Args:
        *args: Arguments of :class:`mmengine.optim.AmpOptimWrapper`.
        **kwargs: Likewise.
    """

    def step(self, **kwargs: Any) -> None:
        """Unscale, clip and step; the scaler is left as it is.

        Args:
            **kwargs: Arguments of the optimizer's step.
        """
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)

    def update_scaler(self) -> None:
        """Update the scaler, after the steps of all that share it."""
        self.loss_scaler.update(self._scale_update_param)


class JointOptimWrapper(OptimWrapperDict):
    """One backward pass of the summed loss, then a step of each optimizer.

    mmengine's ``OptimWrapperDict`` leaves backward pass and steps to the
    model's ``train_step``. Where no loss has a gradient for the parameters of
    two optimizers, one backward pass of the sum is exactly one of each loss;
    then the stock ``train_step`` of models and of
    ``MMDistributedDataParallel`` works with this wrapper as with a single
    one, with gradient accumulation and in mixed precision.

    In mixed precision all optimizers share one loss scaler: all are unscaled,
    clipped and stepped, then it is updated once. As in PyTorch, an optimizer
    skips its own step alone if its own gradients overflow.

    Args:
        wrappers (dict[str, OptimWrapper]): The wrappers by the students'
            names, all ``OptimWrapper`` or all
            :class:`StudentAmpOptimWrapper`. Each has its own clipping.
        accumulative_counts (int): Iterations whose gradients are added up
            for a step of all. Defaults to 1.

    Raises:
        ValueError: If an option or a wrapper is none of these.
    """

    def __init__(
        self,
        wrappers: dict[str, OptimWrapper],
        *,
        accumulative_counts: int = 1,
    ) -> None:
        super().__init__(**wrappers)
        kinds = {type(wrapper) for wrapper in wrappers.values()}
        if kinds not in ({OptimWrapper}, {StudentAmpOptimWrapper}):
            raise ValueError(
                f'the wrappers must be all OptimWrapper or all '
                f'StudentAmpOptimWrapper, but got '
                f'{sorted(kind.__name__ for kind in kinds)}'
            )
        self._accumulative_counts = check_count(
            'accumulative_counts', accumulative_counts
        )
        self._inner_count = 0
        self._max_counts = self._remainder_counts = -1
        first, *others = wrappers.values()
        self._amp = kinds == {StudentAmpOptimWrapper}
        if self._amp:
            for wrapper in others:
                wrapper.loss_scaler = first.loss_scaler

    @property
    def _first(self) -> OptimWrapper:
        return next(iter(self.values()))

    # What OptimWrapperDict leaves open is that of a single wrapper again.
    update_params = OptimWrapper.update_params
    initialize_count_status = OptimWrapper.initialize_count_status

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute the gradients of all parameters.

        Args:
            loss (Tensor): The sum of all losses.
            **kwargs: Arguments of :meth:`torch.Tensor.backward`.
        """
        if self._amp:
            loss = self._first.loss_scaler.scale(loss)
        loss.backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs: Any) -> None:
        """Clip and step, one student after the other.

        Args:
            **kwargs: Arguments of the optimizers' steps.
        """
        # The wrappers' own method, as the engine's schedules count its calls.
        for wrapper in self.values():
            wrapper.step(**kwargs)
        if self._amp:
            self._first.update_scaler()

    def zero_grad(self, **kwargs: Any) -> None:
        """Clear the gradients of all parameters.

        Args:
            **kwargs: Arguments of the optimizers' ``zero_grad``.
        """
        for wrapper in self.values():
            wrapper.zero_grad(**kwargs)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run a forward pass under accumulation and mixed precision.

        Args:
            model (nn.Module): The model, or its wrapper.
        """
        cast = nullcontext()
        if self._amp:
            cast = autocast(dtype=self._first.cast_dtype)
        with OptimWrapper.optim_context(self, model), cast:
            yield

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state of all optimizers.

        Args:
            state_dict (dict): What :meth:`state_dict` returned.

        Raises:
            ValueError: If it is that of other students, or of one optimizer.
        """
        if state_dict.keys() != self.optim_wrappers.keys():
            raise ValueError(
                f'the checkpoint has optimizer states of '
                f'{sorted(state_dict)}, but the students are '
                f'{sorted(self.optim_wrappers)}'
            )
        super().load_state_dict(state_dict)

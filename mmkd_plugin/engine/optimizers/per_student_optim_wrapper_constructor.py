"""An optimizer for each student."""

import copy
from typing import Any, Optional

from mmengine.model import is_model_wrapper
from mmengine.optim import (
    AmpOptimWrapper,
    DefaultOptimWrapperConstructor,
    OptimWrapper,
)
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn

from mmkd_plugin.utils.checks import nearest

from .joint_optim_wrapper import JointOptimWrapper, StudentAmpOptimWrapper

_OWN = ('optimizer', 'clip_grad', 'paramwise_cfg')
_COMMON = ('optimizer', 'clip_grad', 'accumulative_counts', 'students')
# What stands for the engine's wrappers here, and their further options.
_KINDS = {
    OptimWrapper: (OptimWrapper, ()),
    AmpOptimWrapper: (StudentAmpOptimWrapper, ('loss_scale', 'dtype')),
}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class PerStudentOptimWrapperConstructor:
    """Build an optimizer for each student of a model with several.

    .. code-block:: python

        optim_wrapper = dict(
            constructor='PerStudentOptimWrapperConstructor',
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
            clip_grad=dict(max_norm=40),
            students=dict(small=dict(optimizer=dict(lr=0.01))),
        )

    What is not under ``students`` holds for all of them. The parameter
    schedulers of the config are built for each optimizer, and so are scaled
    learning rates (``auto_scale_lr``). The log has ``<name>.lr`` and, with
    clipping, ``<name>.grad_norm``.

    Args:
        optim_wrapper_cfg (dict): ``type`` (``'OptimWrapper'``, the default,
            or ``'AmpOptimWrapper'``, with its ``loss_scale`` and ``dtype``),
            ``optimizer``, and optionally ``clip_grad``,
            ``accumulative_counts`` and ``students``: for some students, by
            their names, another ``optimizer``, ``clip_grad`` or
            ``paramwise_cfg``. An ``optimizer`` without a type changes single
            options of the common one, everything else replaces it.
        paramwise_cfg (dict, optional): As for mmengine's
            ``DefaultOptimWrapperConstructor``; names are those within a
            student. Defaults to None.

    Raises:
        ValueError: If an option is wrong.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None
    ) -> None:
        config = dict(optim_wrapper_cfg)
        self.kind, known = self._kind(config.pop('type', 'OptimWrapper'))
        _check_keys('optim_wrapper', config, (*_COMMON, *known))
        self.students = config.pop('students', None) or {}
        self.accumulative_counts = config.pop('accumulative_counts', 1)
        optimizer = config.pop('optimizer', None)
        if not isinstance(optimizer, dict) or 'type' not in optimizer:
            raise ValueError(
                f'optim_wrapper.optimizer must be a config with its type, '
                f'but got {optimizer!r}'
            )
        self.common = dict(
            optimizer=optimizer,
            clip_grad=config.pop('clip_grad', None),
            paramwise_cfg=paramwise_cfg,
        )
        self.options = config
        for name, own in self.students.items():
            where = f'optim_wrapper.students[{name!r}]'
            if not isinstance(own, dict):
                raise ValueError(f'{where} must be a dict, but got {own!r}')
            _check_keys(where, own, _OWN)

    @staticmethod
    def _kind(given: Any) -> tuple[type, tuple[str, ...]]:
        found = OPTIM_WRAPPERS.get(given) if isinstance(given, str) else given
        if found not in _KINDS:
            raise ValueError(
                f'optim_wrapper.type must be OptimWrapper or AmpOptimWrapper '
                f'where each student has its own optimizer, but got {given!r}'
            )
        return _KINDS[found]

    def __call__(self, model: nn.Module) -> JointOptimWrapper:
        """Build the optimizers.

        Args:
            model (nn.Module): A model with ``students``, or its wrapper.

        Returns:
            JointOptimWrapper: The optimizers by the students' names.

        Raises:
            ValueError: If the model has no students, if options are for one
                that there is not, or if parameters are no student's.
        """
        if is_model_wrapper(model):
            model = model.module
        students = getattr(model, 'students', None)
        if not isinstance(students, nn.ModuleDict):
            raise ValueError(
                f'{type(self).__name__} is for models with several students, '
                f'such as DML, but got {type(model).__name__}'
            )
        for name in self.students:
            if name not in students:
                raise ValueError(
                    f'optim_wrapper.students: there is no student {name!r}; '
                    f'{nearest(str(name), students)}'
                )
        others = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not name.startswith('students.')
        ]
        if others:
            raise ValueError(
                f'no student has the parameters {others}, so no optimizer '
                f'would train them'
            )
        return JointOptimWrapper(
            {name: self._build(name, s) for name, s in students.items()},
            accumulative_counts=self.accumulative_counts,
        )

    def _build(self, name: str, student: nn.Module) -> OptimWrapper:
        own = copy.deepcopy({**self.common, **self.students.get(name, {})})
        if 'type' not in own['optimizer']:
            own['optimizer'] = {
                **copy.deepcopy(self.common['optimizer']),
                **own['optimizer'],
            }
        constructor = DefaultOptimWrapperConstructor(
            dict(
                type=self.kind,
                optimizer=own['optimizer'],
                clip_grad=own['clip_grad'],
                **self.options,
            ),
            own['paramwise_cfg'],
        )
        wrapper = constructor(student)
        if wrapper.clip_grad_kwargs:
            # Otherwise, all would log under one name.
            wrapper.grad_name = f'{name}.{wrapper.grad_name}'
        return wrapper


def _check_keys(where: str, config: dict, known: tuple[str, ...]) -> None:
    for key in config:
        if key not in known:
            raise ValueError(
                f'{where} has no option {key!r}; {nearest(key, known)}'
            )

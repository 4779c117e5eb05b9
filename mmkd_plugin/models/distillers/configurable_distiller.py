"""What passes between teacher and student, put together by a config."""

import inspect
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import NoneType
from typing import Any, Optional, Union

import torch
from mmengine.model import BaseModule, ModuleDict, Sequential
from mmengine.registry import MODELS, TASK_UTILS
from torch import Tensor, nn

from mmkd_plugin.models.recorders import BaseRecorder
from mmkd_plugin.models.schedules.progress import Clock
from mmkd_plugin.models.schedules.scheduled_loss import build_scheduled_loss
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checks import nearest

_RECORD_KEYS = {
    'from_student',
    'recorder',
    'record_idx',
    'data_idx',
    'connector',
    'connector_idx',
    'connector_inputs',
}
_KEY_TYPES = (
    ('record_idx', int, 'an integer'),
    ('data_idx', (int, str, NoneType), 'an integer or a name'),
    ('connector_idx', (int, NoneType), 'an integer'),
)
_BATCH_KEYS = {'from_batch'}
_BATCH_SOURCES = (
    'gt_label',
    'sample_idx',
    'inputs',
    'past_probs',
    'past_logits',
)


def _forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(module.forward).parameters)


def _scale(value: Any, weight: float) -> Any:
    if isinstance(value, dict):
        return {k: _scale(v, weight) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_scale(v, weight) for v in value)
    return weight * value


def _identity(source: dict, leave_out: str = '') -> tuple:
    """Name a source: equal for equal sources."""
    return tuple(
        (key, _identity(value) if isinstance(value, dict) else value)
        for key, value in sorted(source.items())
        if key != leave_out
    )


def _entry_name(loss: str, key: str) -> str:
    """Name the log entry of a term: ``loss_sdd`` is ``sdd_<key>``."""
    parts = loss.replace('loss', '').split('_')
    return '_'.join([*filter(None, parts), key])


def _remove_all(recorders: list[BaseRecorder]) -> None:
    for recorder in recorders:
        recorder.remove()


@MODELS.register_module()
class ConfigurableDistiller(BaseModule):
    """Recorders, connectors and losses, and how they are wired.

    The config is MMRazor's: recorders tap the models, a mapping says for
    every argument of every loss which record it takes and through which
    connector. What can be checked without data is checked when the distiller
    is built. Beyond MMRazor's keys there are ``from_batch``, which takes
    labels, sample indices or images from the batch itself, and
    ``connector_inputs``, which hands further records to a connector that
    takes more than one tensor.

    **Schedules.** The ``loss_weight`` of a loss may be the config of a
    schedule, such as :class:`LinearWarmup`. The loss is then built with the
    weight 1, and what it returns is multiplied, in every step, by
    ``schedule(epoch, iteration)``. Epoch and iteration are the running
    runner's, also after a resume; a training loop without a runner calls
    :meth:`set_progress`.

    **Log terms.** A loss may keep ``log_terms``, a dict of detached scalars
    of its last forward pass. They go into the log beside the loss, with its
    schedule, and are not added up: ``consistent`` of the loss ``loss_sdd``
    is ``sdd_consistent``.

    **Required arguments.** A loss may have ``required_arguments``, a tuple
    of names. The mapping must give them although ``forward`` has a default
    for them, as they are needed with some of its options only. So may a
    connector, for its ``connector_inputs``.

    **Recorders.** A loss may have a method ``check_recorders``, which gets the
    recorders of its arguments by name and raises a ValueError if what they
    record is not what its options need.

    Args:
        student_recorders (dict[str, dict], optional): Configs of recorders
            on the student. Defaults to None.
        teacher_recorders (dict[str, dict], optional): Configs of recorders
            on the teacher. Defaults to None.
        connectors (dict[str, dict | list[dict]], optional): Configs of
            connectors; a list is a sequence. Defaults to None.
        distill_losses (dict[str, dict]): Configs of losses. Every name must
            contain ``'loss'``, as only such entries are added up. A
            ``loss_weight`` may be the config of a schedule.
        loss_forward_mappings (dict[str, dict[str, dict]]): For every loss,
            for every argument of its ``forward``, where it comes from, either
            ``from_batch`` (``'gt_label'``, ``'sample_idx'``, ``'inputs'``,
            ``'past_probs'`` of :class:`PSKD`, ``'past_logits'`` of
            :class:`DLB`) alone, or ``from_student`` (bool), ``recorder``
            (str), ``record_idx`` (which call, defaults to 0), ``data_idx``
            (which element of the record), ``connector`` (str),
            ``connector_inputs`` (further arguments of the connector, mapped
            in the same way) and ``connector_idx`` (which element of what the
            connector returned).
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a name is unknown, a key misspelt, a required argument
            of a loss unmapped, a loss without mapping, or a recorder or
            connector not used.

    Examples:
        >>> distiller = ConfigurableDistiller(
        ...     student_recorders=dict(
        ...         fc=dict(type='ModuleOutputs', source='head.fc')),
        ...     teacher_recorders=dict(
        ...         fc=dict(type='ModuleOutputs', source='head.fc')),
        ...     distill_losses=dict(loss_kl=dict(type='KLDivergence')),
        ...     loss_forward_mappings=dict(loss_kl=dict(
        ...         preds_S=dict(from_student=True, recorder='fc'),
        ...         preds_T=dict(from_student=False, recorder='fc'))))
    """

    def __init__(
        self,
        student_recorders: Optional[dict] = None,
        teacher_recorders: Optional[dict] = None,
        connectors: Optional[dict] = None,
        distill_losses: Optional[dict] = None,
        loss_forward_mappings: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        for name, section in dict(
            student_recorders=student_recorders,
            teacher_recorders=teacher_recorders,
            connectors=connectors,
            distill_losses=distill_losses,
            loss_forward_mappings=loss_forward_mappings,
        ).items():
            if section is not None and not isinstance(section, dict):
                raise ValueError(f'{name} must be a dict, but got {section!r}')
        self.student_recorders = self._build_recorders(
            'student_recorders', student_recorders
        )
        self.teacher_recorders = self._build_recorders(
            'teacher_recorders', teacher_recorders
        )
        # The engine's containers: torch's own would keep init_weights from
        # what is in them.
        self.connectors = ModuleDict(
            {
                k: self._build_connector(k, v)
                for k, v in (connectors or {}).items()
            }
        )
        self.loss_schedules = {}
        self._clock = Clock()
        self.distill_losses = ModuleDict(
            {
                k: self._build_loss(k, v)
                for k, v in (distill_losses or {}).items()
            }
        )
        self.loss_forward_mappings = loss_forward_mappings or {}
        self._check_mappings()
        self._remove_with_self()

    def _remove_with_self(self) -> None:
        # The hooks refer to the recorders, not to the distiller, so this
        # runs when the distiller goes, not only when the models do.
        weakref.finalize(
            self,
            _remove_all,
            [
                *self.student_recorders.values(),
                *self.teacher_recorders.values(),
            ],
        )

    def __setstate__(self, state: dict) -> None:
        # A copy has hooks of its own.
        super().__setstate__(state)
        self._remove_with_self()

    @staticmethod
    def _build_connector(
        name: str, config: Union[dict, list, nn.Module]
    ) -> nn.Module:
        where = f'connectors[{name!r}]'
        if isinstance(config, nn.Module):
            return config
        if isinstance(config, (list, tuple)):
            return Sequential(
                *(
                    build_part(f'{where}[{i}]', MODELS, c)
                    for i, c in enumerate(config)
                )
            )
        return build_part(where, MODELS, config)

    def _build_loss(self, name: str, config: dict) -> nn.Module:
        """Build a loss, and the schedule of its weight, if it has one."""
        loss, schedule = build_scheduled_loss(
            f'distill_losses[{name!r}]', config
        )
        if schedule is not None:
            self.loss_schedules[name] = schedule
        return loss

    @staticmethod
    def _build_recorders(
        which: str, configs: Optional[dict]
    ) -> dict[str, BaseRecorder]:
        return {
            name: build_part(f'{which}[{name!r}]', TASK_UTILS, config)
            for name, config in (configs or {}).items()
        }

    # ------------------------------------------------------------ checks

    def _check_mappings(self) -> None:
        if not self.distill_losses:
            raise ValueError('distill_losses is empty: there is no loss')
        for name in self.loss_forward_mappings:
            if name not in self.distill_losses:
                raise ValueError(
                    f'loss_forward_mappings has {name!r}, which is no loss '
                    f'of distill_losses; {nearest(name, self.distill_losses)}'
                )
        self._used = set()
        for name, loss in self.distill_losses.items():
            if 'loss' not in name:
                raise ValueError(
                    f'the name of a loss must contain "loss", or mmengine '
                    f'does not add it up; {name!r} does not'
                )
            if name not in self.loss_forward_mappings:
                raise ValueError(
                    f'{name!r} has no entry in loss_forward_mappings, so it '
                    f'could never be computed'
                )
            mapping = self.loss_forward_mappings[name]
            self._check_arguments(
                f'loss_forward_mappings[{name!r}]',
                loss,
                mapping,
                required=getattr(loss, 'required_arguments', ()),
            )
            self._check_recorders(name, loss, mapping)
        everything = [
            *(('student', name) for name in self.student_recorders),
            *(('teacher', name) for name in self.teacher_recorders),
            *(('connector', name) for name in self.connectors),
        ]
        unused = [
            f'{k} {n!r}' for k, n in everything if (k, n) not in self._used
        ]
        if unused:
            raise ValueError(
                f'nothing in loss_forward_mappings reads: {", ".join(unused)}'
                f' (recorders are named by their model)'
            )
        del self._used

    def _check_recorders(
        self, name: str, loss: nn.Module, mapping: dict
    ) -> None:
        """Let a loss look at the recorders that it takes its arguments of."""
        check = getattr(loss, 'check_recorders', None)
        if check is None:
            return
        recorders = {
            argument: self._recorders_of(source)[source['recorder']]
            for argument, source in mapping.items()
            if 'recorder' in source
        }
        try:
            check(recorders)
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None

    def _check_arguments(
        self,
        where: str,
        module: nn.Module,
        mapping: dict,
        given: int = 0,
        required: Iterable[str] = (),
    ) -> None:
        """Check a mapping against the ``forward`` of what it feeds.

        ``given`` counts the leading arguments that come from elsewhere;
        ``required`` are needed although they have a default.
        """
        if not isinstance(mapping, dict):
            raise ValueError(f'{where} must be a dict, but got {mapping!r}')
        parameters = _forward_parameters(module)
        for taken in list(parameters)[:given]:
            del parameters[taken]
        kinds = inspect.Parameter
        takes_any = any(
            p.kind is kinds.VAR_KEYWORD for p in parameters.values()
        )
        for argument, source in mapping.items():
            if argument not in parameters and not takes_any:
                raise ValueError(
                    f'{where}: {type(module).__name__}.forward has no '
                    f'argument {argument!r}; {nearest(argument, parameters)}'
                )
            self._check_source(f'{where}[{argument!r}]', source)
        needed = [
            name
            for name, p in parameters.items()
            if p.default is kinds.empty
            and p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)
        ]
        missing = [
            name
            for name in dict.fromkeys([*needed, *required])
            if name not in mapping
        ]
        if missing:
            hint = ''
            if set(missing) & set(required):
                hint = '; with its options they are needed'
                if 'gt_labels' in missing:
                    hint += ", labels by gt_labels=dict(from_batch='gt_label')"
            raise ValueError(
                f'{where}: {type(module).__name__}.forward needs '
                f'{", ".join(missing)}, which the mapping does not give{hint}'
            )

    def _check_source(self, where: str, source: dict) -> None:
        if not isinstance(source, dict):
            raise ValueError(f'{where} must be a dict, but got {source!r}')
        allowed = _BATCH_KEYS if 'from_batch' in source else _RECORD_KEYS
        for key in source:
            if key not in allowed:
                raise ValueError(
                    f'{where} has the unknown key {key!r}; '
                    f'{nearest(key, allowed)}'
                )
        if 'from_batch' in source:
            if source['from_batch'] not in _BATCH_SOURCES:
                raise ValueError(
                    f'{where}: from_batch must be one of {_BATCH_SOURCES}, '
                    f'but got {source["from_batch"]!r}'
                )
            return
        if not isinstance(source.get('from_student'), bool):
            raise ValueError(
                f'{where} needs from_student=True or False, but has '
                f'{source.get("from_student")!r}'
            )
        if 'recorder' not in source:
            raise ValueError(f'{where} names no recorder')
        side = 'student' if source['from_student'] else 'teacher'
        recorders = self._recorders_of(source)
        if source['recorder'] not in recorders:
            raise ValueError(
                f'{where}: there is no {side} recorder '
                f'{source["recorder"]!r}; '
                f'{nearest(str(source["recorder"]), recorders)}'
            )
        self._used.add((side, source['recorder']))
        for key, kinds, wanted in _KEY_TYPES:
            if key in source and not isinstance(source[key], kinds):
                raise ValueError(
                    f'{where}: {key} must be {wanted}, but got {source[key]!r}'
                )
        recorder = recorders[source['recorder']]
        if recorder.records_arguments and source.get('data_idx') is None:
            raise ValueError(
                f'{where}: {type(recorder).__name__} records all arguments '
                f'of a call; take one with data_idx, 0 is the first'
            )
        name = source.get('connector')
        if name is None:
            for key in ('connector_idx', 'connector_inputs'):
                if source.get(key) is not None:
                    raise ValueError(f'{where} has {key}, but no connector')
            return
        if name not in self.connectors:
            raise ValueError(
                f'{where}: there is no connector {name!r}; '
                f'{nearest(str(name), self.connectors)}'
            )
        self._used.add(('connector', name))
        self._check_arguments(
            f'{where} connector_inputs',
            self.connectors[name],
            source.get('connector_inputs') or {},
            given=1,
            required=getattr(self.connectors[name], 'required_arguments', ()),
        )

    # ----------------------------------------------------------- running

    def _recorders_of(self, source: dict) -> dict[str, BaseRecorder]:
        if source['from_student']:
            return self.student_recorders
        return self.teacher_recorders

    def prepare_from_student(self, model: nn.Module) -> None:
        """Attach the student's recorders.

        Args:
            model (nn.Module): The student.

        Raises:
            ValueError: If a recorder's source does not exist.
        """
        self._attach('student_recorders', model)

    def prepare_from_teacher(self, model: nn.Module) -> None:
        """Attach the teacher's recorders.

        Args:
            model (nn.Module): The teacher.

        Raises:
            ValueError: If a recorder's source does not exist.
        """
        self._attach('teacher_recorders', model)

    def _attach(self, which: str, model: nn.Module) -> None:
        for name, recorder in getattr(self, which).items():
            try:
                recorder.initialize(model)
            except ValueError as error:
                raise ValueError(f'{which}[{name!r}]: {error}') from None

    @contextmanager
    def record_student(self) -> Iterator[None]:
        """Record the student while the context is open."""
        with ExitStack() as stack:
            for recorder in self.student_recorders.values():
                stack.enter_context(recorder)
            yield

    @contextmanager
    def record_teacher(self) -> Iterator[None]:
        """Record the teacher while the context is open."""
        with ExitStack() as stack:
            for recorder in self.teacher_recorders.values():
                stack.enter_context(recorder)
            yield

    def clear(self) -> None:
        """Empty all recorders, so that no graph outlives the step."""
        for recorder in self.student_recorders.values():
            recorder.clear()
        for recorder in self.teacher_recorders.values():
            recorder.clear()

    def set_progress(
        self, epoch: Optional[int] = None, iteration: Optional[int] = None
    ) -> None:
        """Tell schedules how far a training without a runner is.

        What is set holds until it is set again, also within a runner's
        training. Without arguments, schedules follow the runner again.

        Args:
            epoch (int, optional): The epoch, counted from 0. Defaults to
                None; then no schedule may go by it.
            iteration (int, optional): The iteration since the start of
                training, counted from 0. Defaults to None, likewise.

        Raises:
            ValueError: If one is a negative number or no integer.
        """
        self._clock.set(epoch, iteration)
        for loss in self.distill_losses.values():
            # One with a schedule of its own, such as PSKDLoss.
            if hasattr(loss, 'set_progress'):
                loss.set_progress(epoch, iteration)

    # A compiled step would take the weights for constants, and be compiled
    # anew for each of them.
    @torch.compiler.disable
    def _scheduled_weights(self) -> dict[str, float]:
        if not self.loss_schedules:
            return {}
        progress = self._clock.now()
        return {
            name: schedule(*progress)
            for name, schedule in self.loss_schedules.items()
        }

    @staticmethod
    def _log_terms(name: str, loss: nn.Module) -> dict[str, Tensor]:
        """Get the log entries of a loss."""
        entries = {}
        for key, value in getattr(loss, 'log_terms', {}).items():
            entry = _entry_name(name, key)
            if 'loss' in entry:
                raise ValueError(
                    f'{name}: the log term {key!r} must not have "loss" in '
                    f'its name, or mmengine adds it up'
                )
            if not isinstance(value, Tensor) or value.ndim:
                raise ValueError(
                    f'{name}: the log term {key!r} must be a tensor without '
                    f'dimensions, but got {value!r}'
                )
            entries[entry] = value.detach()
        return entries

    def _read(self, source: dict, batch: dict[str, Any], made: dict) -> Any:
        """Get an argument; ``made`` is what connectors gave in this step."""
        if 'from_batch' in source:
            return batch[source['from_batch']]
        name = source.get('connector')
        if name is None:
            return self._record(source)
        key = _identity(source, leave_out='connector_idx')
        if key not in made:
            inputs = {
                argument: self._read(value, batch, made)
                for argument, value in (
                    source.get('connector_inputs') or {}
                ).items()
            }
            record = self._record(source)
            try:
                made[key] = self.connectors[name](record, **inputs)
            except ValueError as error:
                raise ValueError(f'connectors[{name!r}]: {error}') from error
        if source.get('connector_idx') is None:
            return made[key]
        if isinstance(made[key], Tensor):
            raise ValueError(
                f'connector {name!r} returned a tensor, there is no '
                f'connector_idx={source["connector_idx"]}'
            )
        return made[key][source['connector_idx']]

    def _record(self, source: dict) -> Any:
        recorder = self._recorders_of(source)[source['recorder']]
        return recorder.get_record(
            source.get('record_idx', 0), source.get('data_idx')
        )

    def compute_distill_losses(
        self, batch: Optional[dict[str, Any]] = None
    ) -> dict[str, Tensor]:
        """Compute all losses from what was recorded.

        Args:
            batch (dict, optional): What ``from_batch`` can name, ``gt_label``
                and ``sample_idx`` (int64, ``(B,)``) and ``inputs``. Only
                what the mapping reads is needed. Defaults to None.

        Returns:
            dict[str, Tensor]: The losses by name, as the losses return them,
            and their log terms, whose names do not contain ``'loss'``.

        Raises:
            RuntimeError: If a recorder recorded nothing, or if a weight has
                a schedule and nothing tells how far the training is.
            ValueError: If a loss or a connector does not take what it was
                given, or if a log term is none; the message names it.
        """
        batch = batch or {}
        weights = self._scheduled_weights()
        losses, terms, made = {}, {}, {}
        for name, loss in self.distill_losses.items():
            arguments = {
                argument: self._read(source, batch, made)
                for argument, source in self.loss_forward_mappings[
                    name
                ].items()
            }
            try:
                losses[name] = loss(**arguments)
            except ValueError as error:
                raise ValueError(f'{name}: {error}') from error
            entries = self._log_terms(name, loss)
            if name in weights:
                losses[name] = _scale(losses[name], weights[name])
                entries = _scale(entries, weights[name])
            for entry in entries:
                if entry in terms:
                    raise ValueError(
                        f'{name}: another loss has a log term {entry!r} '
                        f'already: rename one of the losses'
                    )
            terms.update(entries)
        return {**losses, **terms}

    def batch_sources(self) -> set[str]:
        """Get what the mappings read from the batch.

        Returns:
            set[str]: Names that ``from_batch`` can have.
        """

        def walk(mapping: dict) -> Iterator[str]:
            for source in mapping.values():
                if 'from_batch' in source:
                    yield source['from_batch']
                yield from walk(source.get('connector_inputs') or {})

        return {
            name
            for mapping in self.loss_forward_mappings.values()
            for name in walk(mapping)
        }

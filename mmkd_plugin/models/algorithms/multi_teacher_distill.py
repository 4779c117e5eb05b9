"""Several frozen teachers, one student."""

from typing import Optional, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.models.recorders.callable_recorder import CallableRecorder
from mmkd_plugin.utils.checks import nearest

from .base_distill import BaseDistill
from .frozen_teacher import check_same_classes, frozen_teacher
from .renormalization import (
    Renormalization,
    check_statistics,
    statistics_of,
)

_KEYS = ('model', 'ckpt', 'mean', 'std')


@MODELS.register_module()
class MultiTeacherDistill(BaseDistill):
    """Offline distillation from several teachers into one student.

    The teachers are frozen as the one of :class:`SingleTeacherDistill` is,
    and are no submodules either. Each has a name, which the sources of the
    ``teacher_recorders`` begin with::

        teachers=dict(
            r56=dict(model=..., ckpt='r56.pth'),
            vgg=dict(model=..., ckpt='vgg.pth', mean=[...], std=[...])),
        distiller=dict(
            teacher_recorders=dict(
                r56=dict(type='ModuleOutputs', source='r56.head.fc'),
                vgg=dict(type='ModuleOutputs', source='vgg.head.fc')), ...)

    How they are brought together is up to the distiller:
    :class:`AverageProbabilities` makes one teacher of them, whose answers any
    loss on logits takes; several losses, one for each teacher, with weights
    of their own, average the losses.

    **Statistics.** The images come normalised by the ``data_preprocessor`` of
    the run. A teacher that learned from images with other statistics, which
    are its options ``mean`` and ``std`` or those of the
    ``data_preprocessor`` in its config, gets them normalised anew, on the
    device, once for all teachers with the same statistics.

    MMRazor has several teachers in its data-free distillation, as
    ``teachers=dict(name=dict(build_cfg=..., ckpt_path=...))``; the recorders'
    sources are named as there.

    Args:
        student (dict or nn.Module): Config of the student, a model with
            mmpretrain's ``forward(inputs, data_samples, mode)``, or
            ``dict(cfg_path='mmpretrain::...')``.
        teachers (dict[str, dict]): For every teacher ``model``, its config,
            likewise, or a built module; ``ckpt``, its checkpoint, loaded
            strictly, which is not needed for a built module, nor for timm's
            and torchvision's models that bring their weights; and
            optionally ``mean`` and ``std``, one number for each channel.
        distiller (dict): Config of the distiller.
        student_ckpt (str, optional): Checkpoint that the student starts
            from, loaded strictly. Defaults to None.
        calculate_student_loss (bool): Whether the student's own loss on the
            labels is added. Needs labeled images. Defaults to True.
        channels_last (bool): Whether all models run in channels-last
            memory, which is faster for convolutions on most devices.
            Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a name or an option of a teacher is wrong, if a
            checkpoint is missing or does not fit, if a teacher has another
            number of classes than the student, if a recorder's source does
            not exist, or if no recorder looks at a teacher.
    """

    def __init__(
        self,
        *,
        student: Union[dict, nn.Module],
        teachers: dict[str, dict],
        distiller: dict,
        student_ckpt: Optional[str] = None,
        calculate_student_loss: bool = True,
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(
            student=student,
            student_ckpt=student_ckpt,
            calculate_student_loss=calculate_student_loss,
            channels_last=channels_last,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        _check_teachers(teachers)
        given = statistics_of(self.data_preprocessor)
        models, wanted = {}, {}
        for name, config in teachers.items():
            where = f'teachers[{name!r}]'
            models[name] = model = frozen_teacher(
                config['model'],
                config.get('ckpt'),
                f'teacher {name!r}',
                f'{where}: ckpt',
            )
            check_same_classes(model, self.student, f'teacher {name!r}')
            own = check_statistics(
                where, config.get('mean'), config.get('std')
            ) or statistics_of(getattr(model, 'data_preprocessor', None))
            if own is not None and own != given:
                wanted[name] = own
        different = list(dict.fromkeys(wanted.values()))
        # Where a teacher's images are made; teachers can share that.
        self._places = {name: different.index(wanted[name]) for name in wanted}
        self._frozen = (
            nn.ModuleDict(models),
            nn.ModuleList(Renormalization(given, own) for own in different),
        )
        self.set_distiller(distiller)
        self._check_recorded()

    def _check_recorded(self) -> None:
        recorders = self.distiller.teacher_recorders.values()
        # Those of functions see all teachers, one after the other.
        if any(isinstance(r, CallableRecorder) for r in recorders):
            return
        seen = {recorder.source.split('.')[0] for recorder in recorders}
        idle = [name for name in self.teachers if name not in seen]
        if idle:
            raise ValueError(
                f'no recorder of teacher_recorders looks at the teachers '
                f'{idle}: they would run for nothing'
            )

    @property
    def teachers(self) -> nn.ModuleDict:
        """nn.ModuleDict: The frozen teachers by their names."""
        return self._frozen[0]

    def attach_recorders(self) -> None:
        """Attach the distiller's recorders to student and teachers."""
        super().attach_recorders()
        self.distiller.prepare_from_teacher(self.teachers)

    def images_of(self, name: str, inputs: Tensor) -> Tensor:
        """Normalise images as a teacher knows them.

        Args:
            name (str): The teacher.
            inputs (Tensor): Images with the normalisation of the run, shape
                ``(B, C, H, W)``.

        Returns:
            Tensor: Same shape; ``inputs`` itself where it is the teacher's.
        """
        if name not in self._places:
            return inputs
        return self._frozen[1][self._places[name]](inputs)

    def run_teacher(self, inputs: Tensor) -> None:
        """Record the answers of all teachers.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
        """
        made = {}
        with self.distiller.record_teacher():
            for name, teacher in self.teachers.items():
                place = self._places.get(name)
                if place not in made:
                    made[place] = self.images_of(name, inputs)
                teacher(made[place], mode='tensor')


def _check_teachers(teachers: dict[str, dict]) -> None:
    if not isinstance(teachers, dict) or not teachers:
        raise ValueError(
            f'teachers must be a dict of at least one teacher by its name, '
            f'but got {teachers!r}'
        )
    taken = nn.ModuleDict()
    for name, config in teachers.items():
        if not isinstance(name, str) or not name or '.' in name:
            raise ValueError(
                f'the name of a teacher must be a string without dots, but '
                f'got {name!r}'
            )
        if hasattr(taken, name):
            raise ValueError(
                f'a teacher cannot be called {name!r}, which PyTorch has a '
                f'use for'
            )
        where = f'teachers[{name!r}]'
        if not isinstance(config, dict) or 'model' not in config:
            raise ValueError(
                f'{where} must be dict(model=..., ckpt=...), but got '
                f'{config!r}'
            )
        for key in config:
            if key not in _KEYS:
                raise ValueError(
                    f'{where} has the unknown key {key!r}; '
                    f'{nearest(key, _KEYS)}'
                )

"""One frozen teacher, one student."""

from typing import Optional, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checkpoint import load_strict
from mmkd_plugin.utils.checks import check_flag

from .base_distill import BaseDistill
from .frozen_teacher import (
    check_reusable_head,
    check_same_classes,
    check_same_statistics,
    frozen_teacher,
)


@MODELS.register_module()
class SingleTeacherDistill(BaseDistill):
    """Offline distillation from one teacher into one student.

    The teacher is frozen: always in eval mode as a whole, run without
    gradients and without its head's loss. It is no submodule, so neither
    optimizer nor DDP nor checkpoints nor weight initialisation see it;
    ``.to()`` moves it along.

    Args:
        student (dict or nn.Module): Config of the student, a model with
            mmpretrain's ``forward(inputs, data_samples, mode)``, or
            ``dict(cfg_path='mmpretrain::...')``. MMRazor's
            ``architecture``.
        teacher (dict or nn.Module): Config of the teacher, likewise.
        distiller (dict): Config of the distiller.
        teacher_ckpt (str, optional): Checkpoint of the teacher, loaded
            strictly. Not needed for a built module, nor for timm's and
            torchvision's models that bring their weights.
        student_ckpt (str, optional): Checkpoint that the student starts
            from, loaded strictly. Defaults to None.
        calculate_student_loss (bool): Whether the student's own loss on the
            labels is added. Needs labeled images. Defaults to True, as in
            MMRazor.
        channels_last (bool): Whether both models run in channels-last
            memory, which is faster for convolutions on most devices.
            Defaults to False.
        reuse_teacher_head (bool): Whether the student's head is the
            teacher's, as in SimKD: it gets the weights of that one, whatever
            the student's checkpoint or that of a resumed run has, and is
            frozen, in eval mode as well. See :class:`SimKDNeck`, which brings
            the student to the teacher's width. Defaults to False.
        student_trainable (bool): Whether the student is trained. False for a
            first stage that trains connectors on the teacher alone, such as
            :class:`ParaphraserConnector`; the student is kept as it is.
            Defaults to True, as in MMRazor.
        data_preprocessor (dict, optional): Config of the preprocessor, with
            the teacher's statistics. Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If a checkpoint is missing or does not fit, if teacher
            and student have different numbers of classes, if the teacher's own
            preprocessor has other statistics than ``data_preprocessor``, if
            a recorder's source does not exist, if the teacher's head is
            to be reused and does not fit, or if nothing is left to train.
    """

    def __init__(
        self,
        *,
        student: Union[dict, nn.Module],
        teacher: Union[dict, nn.Module],
        distiller: dict,
        teacher_ckpt: Optional[str] = None,
        student_ckpt: Optional[str] = None,
        calculate_student_loss: bool = True,
        channels_last: bool = False,
        reuse_teacher_head: bool = False,
        student_trainable: bool = True,
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
        self.reuse_teacher_head = check_flag(
            'reuse_teacher_head', reuse_teacher_head
        )
        self.student_trainable = check_flag(
            'student_trainable', student_trainable
        )
        frozen = frozen_teacher(teacher, teacher_ckpt)
        check_same_classes(frozen, self.student)
        check_same_statistics(frozen, self.data_preprocessor)
        self._frozen = (frozen,)
        if reuse_teacher_head:
            check_reusable_head(frozen, self.student)
            self.student.head.requires_grad_(False)
        if not student_trainable:
            self.student.requires_grad_(False)
        self.set_distiller(distiller)
        self._check_trained()

    def _check_trained(self) -> None:
        if not any(p.requires_grad for p in self.parameters()):
            raise ValueError(
                'nothing is left to train: the student is frozen, and no '
                'connector or loss has a parameter to learn'
            )
        if self.calculate_student_loss and not self.student_trainable:
            raise ValueError(
                'student_trainable=False, so the loss of the student trains '
                'nothing: set calculate_student_loss=False'
            )

    def _load_student(self) -> None:
        super()._load_student()
        if self.reuse_teacher_head:
            load_strict(
                self.student.head,
                self.teacher.head.state_dict(),
                "head of the student, which is the teacher's",
            )

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, *args, **kwargs
    ) -> None:
        # Both torch and mmengine hand a copy of what they load.
        if self.reuse_teacher_head:
            for key, value in self.teacher.head.state_dict().items():
                name = f'{prefix}student.head.{key}'
                if name in state_dict:
                    state_dict[name] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def teacher(self) -> nn.Module:
        """nn.Module: The frozen teacher."""
        return self._frozen[0]

    def attach_recorders(self) -> None:
        """Attach the distiller's recorders to student and teacher."""
        super().attach_recorders()
        self.distiller.prepare_from_teacher(self.teacher)

    def train(self, mode: bool = True) -> 'SingleTeacherDistill':
        """Set the mode of what is trained; what is frozen stays in eval mode.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            SingleTeacherDistill: This model.
        """
        super().train(mode)
        if self.reuse_teacher_head:
            self.student.head.train(False)
        if not self.student_trainable:
            self.student.train(False)
        return self

    def run_teacher(self, inputs: Tensor) -> None:
        """Record the teacher's answers.

        Args:
            inputs (Tensor): Normalised images, shape ``(B, C, H, W)``.
        """
        with self.distiller.record_teacher():
            self.teacher(inputs, mode='tensor')

"""A student that is its own teacher."""

from typing import Optional, Union

from mmengine.registry import MODELS
from torch import nn

from .base_distill import BaseDistill


@MODELS.register_module()
class SelfDistill(BaseDistill):
    """Self-distillation of one network, without a teacher.

    The distiller has recorders on the student alone. Where a loss compares
    two parts of the network, as BYOT does (see :class:`BYOTConnector`), both
    of its arguments come ``from_student``; losses let no gradient into
    ``preds_T``. Where a loss holds the cross entropy with the labels, as
    :class:`TFKDLoss` does, the student's own is left out
    (``calculate_student_loss=False``). Schemes that need more than the batch
    are :class:`PSKD`, :class:`DLB` and :class:`CSKD`. MMRazor has an
    algorithm of this name, too.

    Args:
        student (dict or nn.Module): Config of the student, a model with
            mmpretrain's ``forward(inputs, data_samples, mode)``, or
            ``dict(cfg_path='mmpretrain::...')``.
        distiller (dict): Config of the distiller.
        student_ckpt (str, optional): Checkpoint that the student starts
            from, loaded strictly. Defaults to None.
        calculate_student_loss (bool): Whether the student's own loss on the
            labels is added. Defaults to True.
        channels_last (bool): Whether the student runs in channels-last
            memory. Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: If the checkpoint is missing or does not fit, if a
            recorder's source does not exist, or if there are recorders of a
            teacher.
    """

    def __init__(
        self,
        *,
        student: Union[dict, nn.Module],
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
        self.set_distiller(distiller)
        self.check_teacher_recorders()

    def check_teacher_recorders(self) -> None:
        """Check that no recorder waits for a teacher.

        Raises:
            ValueError: If one does.
        """
        names = list(self.distiller.teacher_recorders)
        if names:
            raise ValueError(
                f'{type(self).__name__} has no teacher, but there are the '
                f'teacher_recorders {names}: record the student'
            )

"""Deep mutual learning."""

from collections.abc import Mapping
from typing import Optional, Union

from mmengine.registry import MODELS
from torch import Tensor, nn

from .online_distill import OnlineDistill


@MODELS.register_module()
class DML(OnlineDistill):
    r"""Deep mutual learning: each student imitates each of the others.

    .. math::
        L_i = L_{CE}(p_i, y) + \frac{1}{K - 1} \sum_{j \ne i}
            \mathrm{KL}(p_j \| p_i)

    without a temperature, and without a gradient into :math:`p_j`.

    The loss is a mean over the local batch, so under DistributedDataParallel,
    with equal batches, its gradient is that of the joint batch.

    Reference:
        Zhang et al., Deep Mutual Learning, CVPR 2018,
        https://arxiv.org/abs/1706.00384. Deviations from the released code
        (https://github.com/YingZhangDUT/Deep-Mutual-Learning): it updates the
        students in turns, each on a batch of its own. Here all of them learn
        from one forward pass of the same batch (synchronously), as in
        reimplementations, which costs one forward pass a student instead of
        K. It sums over the others, where the paper's formula averages: with
        more than two students, ``loss_weight=K - 1`` in ``peer_loss`` is what
        the code does. It adds 1e-8 to probabilities; here the logarithms are
        exact.

    Args:
        students (dict[str, dict | nn.Module]): Configs of the students by
            their names, see :class:`OnlineDistill`.
        peer_loss (dict, optional): Config of another loss between two
            students' logits, ``preds_S`` and ``preds_T``; its
            ``loss_weight`` may be the config of a schedule. Defaults to None,
            ``dict(type='KLDivergence', tau=1.0)``.
        student_ckpts (dict[str, str], optional): Checkpoints that students
            start from. Defaults to None.
        main_student (str, optional): The student that answers. Defaults to
            None, the first.
        logits (str or dict[str, str]): Module whose output are the logits.
            Defaults to ``'head.fc'``.
        channels_last (bool): Whether the students run in channels-last
            memory. Defaults to False.
        data_preprocessor (dict, optional): Config of the preprocessor.
            Defaults to None.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ValueError: As :class:`OnlineDistill`.
    """

    def __init__(
        self,
        *,
        students: Mapping[str, Union[dict, nn.Module]],
        peer_loss: Optional[dict] = None,
        student_ckpts: Optional[Mapping[str, str]] = None,
        main_student: Optional[str] = None,
        logits: Union[str, Mapping[str, str]] = 'head.fc',
        channels_last: bool = False,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(
            students=students,
            peer_loss=peer_loss or dict(type='KLDivergence', tau=1.0),
            student_ckpts=student_ckpts,
            main_student=main_student,
            logits=logits,
            channels_last=channels_last,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )

    def peer_losses(
        self, logits: dict[str, Tensor], labels: Optional[Tensor]
    ) -> dict[str, Tensor]:
        """Compare each student with all of the others.

        Args:
            logits (dict[str, Tensor]): Logits of the students, ``(B, C)``.
            labels (Tensor, optional): Class indices, ``(B,)``.

        Returns:
            dict[str, Tensor]: ``<name>.distill.loss_peer`` for each.
        """
        weight = self._peer_weight() / (len(logits) - 1)
        losses = {}
        for name, preds_S in logits.items():
            terms = [
                self.compare(preds_S, preds_T, labels)
                for other, preds_T in logits.items()
                if other != name
            ]
            losses[f'{name}.distill.loss_peer'] = weight * sum(terms)
        return losses

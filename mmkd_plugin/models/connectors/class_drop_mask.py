"""Drop the classes of a sample in which the teacher does not believe."""

from typing import Optional

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmkd_plugin.utils.checks import check_number, check_same_shape
from mmkd_plugin.utils.precision import full_precision


@full_precision
def class_drop_mask(
    logits: Tensor,
    drop_ratio: Optional[float] = None,
    num_dropped: Optional[int] = None,
    min_prob: Optional[float] = None,
) -> Tensor:
    """Find the classes to drop, sample by sample.

    Exactly one of the three rules must be given.

    Args:
        logits (Tensor): Teacher logits, shape ``(N, C)``.
        drop_ratio (float, optional): Share of the classes to drop, those of
            the lowest logits; rounded down to whole classes.
        num_dropped (int, optional): Number of classes to drop.
        min_prob (float, optional): Drop the classes whose probability (at
            temperature 1) is lower. The most probable class always stays.

    Returns:
        Tensor: bool, shape ``(N, C)``, True where a class is dropped.
        With the first two rules the count is exact, ties included.

    Raises:
        ValueError: If ``num_dropped`` leaves no class.
    """
    num_classes = logits.shape[1]
    if min_prob is not None:
        dropped = torch.softmax(logits, dim=1) < min_prob
        return dropped.scatter(1, logits.argmax(dim=1, keepdim=True), False)
    if num_dropped is None:
        # 0.29 * 100 is 28.999..., which is meant to be 29.
        num_dropped = int(drop_ratio * num_classes + 1e-9)
    if num_dropped >= num_classes:
        raise ValueError(
            f'num_dropped must leave a class, but {num_dropped} of '
            f'{num_classes} would go'
        )
    lowest = logits.topk(num_dropped, dim=1, largest=False).indices
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, lowest, True)


@MODELS.register_module()
class ClassDropMask(nn.Module):
    """Set the logits of a sample's least likely classes to ``-inf``.

    A softmax over the result is the teacher's distribution, masked and
    renormalised over the classes that are left. The mask depends on the
    order of the logits, not on the temperature.

    Put it on the teacher's logits to mask the target alone, the student
    keeps its full softmax. To mask both sides, put it on the student's
    logits too and hand it the teacher's as the reference, so that both lose
    the same classes::

        preds_S=dict(from_student=True, recorder='logits', connector='mask',
                     connector_inputs=dict(
                         reference=dict(from_student=False,
                                        recorder='logits'))),
        preds_T=dict(from_student=False, recorder='logits', connector='mask')

    With all classes but one dropped on the teacher's side, a KL loss is the
    cross entropy with the teacher's answer; dropped on both sides, value and
    gradient are zero.

    Reference:
        Wang et al., Explicit and Implicit Knowledge Distillation via
        Unlabeled Data, ICASSP 2023, https://arxiv.org/abs/2302.08771. The
        paper's wording: predictions of low-confidence classes are affected by
        the domain shift, hence a simple confidence mask. Our choice, since
        the paper's equations could not be obtained: a fixed share of
        classes by rank, at ``-inf`` before the softmax, on the teacher's
        side.

    Args:
        drop_ratio (float, optional): Share of the classes to drop, in
            [0, 1). Defaults to 0.5 where no other rule is given.
        num_dropped (int, optional): Number of classes to drop, instead.
        min_prob (float, optional): Drop the classes less probable than this,
            instead; in (0, 1).

    Raises:
        ValueError: If an option is out of its range or two rules are given.

    Examples:
        >>> import torch
        >>> ClassDropMask(num_dropped=2)(torch.tensor([[3., 1., 2., 0.]]))
        tensor([[3., -inf, 2., -inf]])
    """

    def __init__(
        self,
        *,
        drop_ratio: Optional[float] = None,
        num_dropped: Optional[int] = None,
        min_prob: Optional[float] = None,
    ) -> None:
        super().__init__()
        rules = dict(
            drop_ratio=drop_ratio, num_dropped=num_dropped, min_prob=min_prob
        )
        given = {k: v for k, v in rules.items() if v is not None}
        if len(given) > 1:
            raise ValueError(
                f'only one of {tuple(rules)} can be given, but got {given}'
            )
        if not given:
            drop_ratio = 0.5
        if drop_ratio is not None:
            check_number('drop_ratio', drop_ratio, least=0, below=1)
        if num_dropped is not None:
            check_number('num_dropped', num_dropped, least=0)
            if num_dropped != int(num_dropped):
                raise ValueError(
                    f'num_dropped must be an integer, but got {num_dropped!r}'
                )
            num_dropped = int(num_dropped)
        if min_prob is not None:
            check_number('min_prob', min_prob, above=0, below=1)
        self.drop_ratio = drop_ratio
        self.num_dropped = num_dropped
        self.min_prob = min_prob

    def forward(
        self, logits: Tensor, reference: Optional[Tensor] = None
    ) -> Tensor:
        """Mask the logits.

        Args:
            logits (Tensor): Logits, shape ``(N, C)``.
            reference (Tensor, optional): The logits that decide which
                classes go, same shape. Defaults to ``logits``.

        Returns:
            Tensor: The logits with ``-inf`` at the dropped classes, same
            dtype.
        """
        if reference is None:
            reference = logits
        check_same_shape(logits, reference)
        dropped = class_drop_mask(
            reference.detach(),
            self.drop_ratio,
            self.num_dropped,
            self.min_prob,
        )
        return logits.masked_fill(dropped, -torch.inf)

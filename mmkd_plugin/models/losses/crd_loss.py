"""Contrastive representation distillation."""

import math
from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
import torch
from mmengine import dist
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, logsigmoid

from mmkd_plugin.models.stores.contrast_memory import ContrastMemory
from mmkd_plugin.models.stores.sample_index import checked_index, of_all_ranks
from mmkd_plugin.utils.checks import check_choice, check_count, check_number
from mmkd_plugin.utils.precision import full_precision

from .contrast_negatives import contrast_indices
from .sample_rows import sample_rows, unit_rows

NEGATIVES = ('other_classes', 'all_samples')
# The engine averages buffers over ranks, integers in float32.
_MOST_SAMPLES = 2**24
# Up to which size of the memory, in negatives a sample, all products cost
# less than reading the rows one by one (benchmarks/crd_loss.py --rule).
_ALL_ROWS = 24
# How many numbers of gathered rows are there at once.
_BLOCK = 2**20


def _takes_all_rows(memory: Tensor, index: Tensor) -> bool:
    return len(memory) <= _ALL_ROWS * index.shape[1]


def _scores(anchors: Tensor, memory: Tensor, index: Tensor) -> Tensor:
    """Multiply each anchor with its rows of the memory, ``(N, 1 + K)``."""
    if _takes_all_rows(memory, index):
        return (anchors @ memory.t()).gather(1, index)
    scores = anchors.new_empty(index.shape)
    block = max(1, _BLOCK // (index.shape[1] * memory.shape[1]))
    for begin in range(0, len(index), block):
        part = slice(begin, begin + block)
        rows = memory.index_select(0, index[part].reshape(-1))
        rows = rows.view(-1, index.shape[1], memory.shape[1])
        scores[part] = torch.bmm(rows, anchors[part].unsqueeze(2)).squeeze(2)
    return scores


def _weighted_rows(weights: Tensor, memory: Tensor, index: Tensor) -> Tensor:
    """Add up the rows of the memory of each anchor, ``(N, D)``."""
    if _takes_all_rows(memory, index):
        spread = weights.new_zeros(len(index), len(memory))
        return spread.scatter_add_(1, index, weights) @ memory
    return embedding_bag(index, memory, mode='sum', per_sample_weights=weights)


class _NoiseContrast(torch.autograd.Function):
    """Noise-contrastive estimation of one side, with its gradient at once.

    The memory changes before the backward pass, so nothing of it may be
    needed there; neither it nor the rows that were read are copied.
    """

    @staticmethod
    def forward(
        ctx,
        anchors: Tensor,
        memory: Tensor,
        index: Tensor,
        log_z: Tensor,
        tau: float,
    ) -> Tensor:
        count = max(len(index), 1)
        # The logarithm of the odds that a row is noise, P_noise / P.
        odds = _scores(anchors / -tau, memory, index)
        odds += log_z + math.log((index.shape[1] - 1) / len(memory))
        # Of the sample itself, that it is not.
        odds[:, 0].neg_()
        value = -logsigmoid(odds).sum() / count
        if ctx.needs_input_grad[0]:
            weights = odds.neg_().sigmoid_()
            weights[:, 0].neg_()
            by_anchor = _weighted_rows(weights, memory, index)
            ctx.save_for_backward(by_anchor / (tau * count))
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple:
        (by_anchor,) = ctx.saved_tensors
        return gradient * by_anchor, None, None, None, None


@full_precision
def crd_embedding(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Map features linearly and bring them to length 1.

    Args:
        rows (Tensor): Features, shape ``(N, C)``.
        weight (Tensor): Shape ``(D, C)``.
        bias (Tensor): Shape ``(D,)``.

    Returns:
        Tensor: Shape ``(N, D)``; float32, or float64 if one is.
    """
    dtype = torch.promote_types(rows.dtype, weight.dtype)
    return unit_rows(linear(*(t.to(dtype) for t in (rows, weight, bias))))


@full_precision
def crd_log_z(
    anchors: Tensor, memory: Tensor, contrast_idx: Tensor, tau: float = 0.07
) -> Tensor:
    r"""Estimate the constant that makes probabilities of the products.

    .. math::
        \log Z = \log \Big(M \, \mathrm{mean}_{i,k}
        \exp(v_i \cdot m_k / \tau)\Big)

    over a batch, that of all ranks together, and all its contrasts.

    Args:
        anchors (Tensor): As the embeddings of :func:`crd_loss`.
        memory (Tensor): The other side's memory there.
        contrast_idx (Tensor): As there.
        tau (float): Temperature. Defaults to 0.07.

    Returns:
        Tensor: A scalar, without a graph.
    """
    memory = memory.to(anchors.dtype)
    scores = _scores(anchors.detach(), memory, contrast_idx) / tau
    count = scores.new_tensor(float(scores.numel()))
    found = torch.stack([scores.flatten().logsumexp(0), count.log()])
    total, count = of_all_ranks(found.unsqueeze(0)).logsumexp(dim=0)
    return total - count + math.log(len(memory))


@full_precision
def crd_loss(
    embedded_S: Tensor,
    embedded_T: Tensor,
    memory_S: Tensor,
    memory_T: Tensor,
    contrast_idx: Tensor,
    log_z: Tensor,
    tau: float = 0.07,
) -> Tensor:
    r"""Compute the noise-contrastive loss of student and teacher.

    .. math::
        L = -\frac{1}{N} \sum_i \sum_{(v, m, Z)} \Big(\log h(v_i, m_i) +
        \sum_{k=1}^K \log\big(1 - h(v_i, m_{j_{ik}})\big)\Big), \qquad
        h(v, m) = \frac{P}{P + K / M}, \quad P = \frac{e^{v \cdot m / \tau}}{Z}

    where the inner sum is over two sides: the student's embedding with the
    teacher's memory, and the teacher's embedding with the student's. M is
    the size of a memory, K the number of negatives.

    Computed in log space: value and gradient are finite at any temperature.
    The gradient is computed with the value, so the memories may change
    before the backward pass; it cannot be differentiated once more.

    Args:
        embedded_S (Tensor): Student embeddings of length 1, shape ``(N, D)``.
        embedded_T (Tensor): Teacher embeddings, likewise. These have a
            gradient, too: what embeds the teacher's features is learned.
        memory_S (Tensor): Student embeddings of all samples, shape ``(M,
            D)``; no gradient flows into them.
        memory_T (Tensor): Teacher embeddings of all samples, likewise.
        contrast_idx (Tensor): Rows of the memories, int64, shape ``(N, 1 +
            K)``: the sample itself, then its negatives.
        log_z (Tensor): :math:`\log Z` of the student's and of the teacher's
            side, shape ``(2,)``, see :func:`crd_log_z`.
        tau (float): Temperature. Defaults to 0.07.

    Returns:
        Tensor: A scalar; float32, float64 for float64.

    Examples:
        >>> import torch
        >>> units, index = torch.eye(2), torch.tensor([[0, 1], [1, 0]])
        >>> loss = crd_loss(
        ...     units, units, units, units, index, torch.zeros(2), tau=1.0)
        >>> round(loss.item(), 4)
        2.5349
    """
    log_z = log_z.detach().to(embedded_S.dtype)
    return sum(
        _NoiseContrast.apply(
            anchors, memory.detach().to(anchors.dtype), contrast_idx, z, tau
        )
        for anchors, memory, z in (
            (embedded_S, memory_T, log_z[0]),
            (embedded_T, memory_S, log_z[1]),
        )
    )


@MODELS.register_module()
class CRDLoss(nn.Module):
    r"""Contrastive representation distillation.

    Student and teacher embed pooled features linearly. The student's
    embedding of an image is to be told from those of other images by the
    teacher's, and the other way round, among many negatives from a memory of
    the whole data set. Both embeddings are learned with the student, by the
    same optimizer; nothing flows into the teacher. A config maps three
    arguments::

        loss_crd=dict(
            preds_S=dict(from_student=True, recorder='pooled', data_idx=0),
            preds_T=dict(from_student=False, recorder='pooled', data_idx=0),
            sample_idx=dict(from_batch='sample_idx'))

    where ``pooled`` is ``dict(type='ModuleInputs', source='head.fc')``, and
    has ``custom_hooks=[dict(type='DatasetLabelsHook')]``, which hands over
    the labels of the whole data set.

    The state is in the checkpoint: two memories (``4 * num_samples *
    feat_dim`` bytes each), and the constants Z of both sides, which are
    estimated in the first training step and kept. The memories take up the
    embeddings of a batch after its loss, in training mode and with gradients
    enabled; otherwise nothing changes, and equal inputs have equal losses.

    The negatives of a sample are drawn anew in each step, as a function of
    the seed of the run, the iteration and the sample: a resumed run draws
    those of an uninterrupted one, several processes those of a single one
    with the joint batch. Without a running runner, calls in training mode
    count as iterations.

    Reference:
        Tian et al., Contrastive Representation Distillation, ICLR 2020,
        https://arxiv.org/abs/1910.10699, equations 10, 18 and 19. The
        options' defaults and the form with Z are those of the authors' code,
        RepDistiller, whose weight is 0.8 on the pooled features, beside the
        cross entropy (and, optionally, KD with the weight 1). What differs
        from it: no constant of 1e-7 in the logarithms, which are computed in
        log space; memories that start with rows of length 1, not with
        uniform numbers; negatives with replacement, where the code draws
        without it if the other classes have enough samples; negatives from
        all samples that are never the sample itself. The positive of a
        sample is the sample itself, the code's mode 'exact'; 'relax',
        another one of its class, is not here.

    Args:
        student_channels (int): Width of the student's features.
        teacher_channels (int): Width of the teacher's.
        num_samples (int): Size of the training set.
        feat_dim (int): Width of the embeddings. Defaults to 128.
        num_negatives (int): Negatives of a sample, K. Defaults to 16384.
        negatives (str): Where they come from: ``'other_classes'``, or
            ``'all_samples'`` but itself, which needs no labels. Defaults to
            ``'other_classes'``.
        tau (float): Temperature. Defaults to 0.07.
        momentum (float): Share of the old embedding in the memory, in
            [0, 1). Defaults to 0.5.
        loss_weight (float): Weight of the loss. Defaults to 1.0.

    Raises:
        ValueError: If an option is out of its range.

    Attributes:
        memory_S (ContrastMemory): Embeddings of the student.
        memory_T (ContrastMemory): Embeddings of the teacher.
        log_z (Tensor): float32, shape ``(2,)``: the logarithms of the
            constants of the student's and of the teacher's side; NaN before
            the first step.

    Examples:
        >>> import torch
        >>> loss = CRDLoss(
        ...     student_channels=2, teacher_channels=3, num_samples=5,
        ...     num_negatives=4)
        >>> loss.set_dataset_labels([0, 1, 0, 1, 1])
        >>> before = loss.memory_S.rows.clone()
        >>> loss(torch.eye(2), torch.eye(3)[:2], torch.tensor([4, 0])).shape
        torch.Size([])
        >>> (loss.memory_S.rows != before).any(dim=1).tolist()
        [True, False, False, False, True]
    """

    log_z: Tensor
    labels: Optional[Tensor]
    class_order: Optional[Tensor]
    class_first: Optional[Tensor]
    class_count: Optional[Tensor]

    def __init__(
        self,
        *,
        student_channels: int,
        teacher_channels: int,
        num_samples: int,
        feat_dim: int = 128,
        num_negatives: int = 16384,
        negatives: str = 'other_classes',
        tau: float = 0.07,
        momentum: float = 0.5,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_count('student_channels', student_channels)
        check_count('teacher_channels', teacher_channels)
        check_count('num_samples', num_samples, least=2)
        self.num_samples = check_number(
            'num_samples', num_samples, most=_MOST_SAMPLES
        )
        check_count('feat_dim', feat_dim)
        self.num_negatives = check_count('num_negatives', num_negatives)
        self.negatives = check_choice('negatives', negatives, NEGATIVES)
        self.tau = check_number('tau', tau, above=0)
        self.loss_weight = check_number('loss_weight', loss_weight)
        self.embed_S = nn.Linear(student_channels, feat_dim)
        self.embed_T = nn.Linear(teacher_channels, feat_dim)
        self.memory_S = ContrastMemory(num_samples, feat_dim, momentum)
        self.memory_T = ContrastMemory(num_samples, feat_dim, momentum)
        self.register_buffer('log_z', torch.full((2,), torch.nan))
        for name in ('labels', 'class_order', 'class_first', 'class_count'):
            self.register_buffer(name, None, persistent=False)
        self._has_log_z = False
        self._calls = 0
        self._agreed = None

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._has_log_z = False

    def set_dataset_labels(
        self, labels: Union[Sequence[int], np.ndarray, Tensor]
    ) -> None:
        """Take the labels of the whole data set; DatasetLabelsHook calls it.

        Args:
            labels (Sequence[int]): Class indices, one a sample of the data
                set.

        Raises:
            ValueError: If there are not ``num_samples`` of them, or if all
                are of one class and negatives are to be of another one.
        """
        labels = torch.as_tensor(labels)
        if labels.dim() != 1 or labels.is_floating_point():
            raise ValueError(
                f'labels must be class indices, one a sample, but got '
                f'{labels.dtype} of shape {tuple(labels.shape)}'
            )
        if len(labels) != self.num_samples:
            raise ValueError(
                f'num_samples must be {len(labels)}, the size of the data '
                f'set, but got {self.num_samples}'
            )
        labels = labels.long().to(self.log_z.device)
        if self.negatives == 'all_samples':
            self.labels = labels
            return
        _, which, counts = labels.unique(
            return_inverse=True, return_counts=True
        )
        if len(counts) < 2:
            raise ValueError(
                f'negatives of other classes need at least 2 classes, but '
                f'got {len(labels)} labels that are all {labels[0].item()}: '
                f"use negatives='all_samples'"
            )
        self.labels = labels
        self.class_order = labels.argsort(stable=True)
        self.class_first = (counts.cumsum(0) - counts)[which]
        self.class_count = counts[which]

    def check_dataset_labels(self) -> None:
        """Check that the labels are there, if they are needed.

        Raises:
            ValueError: If they are not.
        """
        if self.negatives == 'other_classes' and self.labels is None:
            raise ValueError(
                "CRDLoss with negatives='other_classes' needs the labels of "
                'the whole data set, but got none: add '
                "dict(type='DatasetLabelsHook') to custom_hooks, or call "
                'set_dataset_labels(labels) in a loop of your own'
            )

    def _check_batch(
        self, sample_idx: Tensor, gt_labels: Optional[Tensor], count: int
    ) -> Tensor:
        index = checked_index(sample_idx, self.num_samples)
        index = index.to(self.log_z.device)
        if len(index) != count:
            raise ValueError(
                f'one index a sample is needed, but got {len(index)} of them '
                f'for {count} samples'
            )
        if gt_labels is None or self.labels is None:
            return index
        if gt_labels.shape != index.shape:
            raise ValueError(
                f'gt_labels must have the shape {tuple(index.shape)}, but '
                f'got {tuple(gt_labels.shape)}'
            )
        # Elsewhere than on the CPU it would wait for the device.
        if index.device.type == 'cpu' or not self._has_log_z:
            wrong = gt_labels.to(index.device) != self.labels[index]
            if wrong.any():
                place = wrong.nonzero()[0, 0]
                sample = index[place].item()
                raise ValueError(
                    f'gt_labels must be those of the data set, but got '
                    f'{gt_labels[place].item()} for sample {sample}, which '
                    f'has {self.labels[sample].item()}: sample_idx must be '
                    f'positions in the training set'
                )
        return index

    def _position(self, changes: bool) -> tuple[int, int]:
        """Get seed and step, the same on all ranks."""
        hub = MessageHub.get_current_instance()
        step = self._calls
        self._calls += changes
        # The count of a run that is over is still there.
        if hub.get_info('loop_stage') is not None:
            step = hub.get_info('iter')
        own = hub.get_info('seed') or 0, dist.get_world_size()
        if self._agreed is None or self._agreed[0] != own:
            # With diff_rank_seed, each process has another one.
            seed = torch.tensor(own[0])
            dist.broadcast(seed)
            self._agreed = own, seed.item()
        return self._agreed[1], step

    # Neither collectives nor the running state of the loss can be compiled.
    @torch.compiler.disable
    def forward(
        self,
        preds_S: Tensor,
        preds_T: Tensor,
        sample_idx: Tensor,
        gt_labels: Optional[Tensor] = None,
    ) -> Tensor:
        """Compute the weighted loss, then update the memories.

        Args:
            preds_S (Tensor): Student features, shape ``(N, *)``; what
                follows the batch size is flattened to ``student_channels``.
            preds_T (Tensor): Teacher features, likewise.
            sample_idx (Tensor): Positions in the data set, integers, shape
                ``(N,)``.
            gt_labels (Tensor, optional): Labels, integers, shape ``(N,)``.
                They only serve to check, in each step on the CPU and in the
                first one elsewhere, that ``sample_idx`` are positions in the
                data set whose labels the loss has. Defaults to None.

        Returns:
            Tensor: The loss, a scalar.

        Raises:
            ValueError: If inputs do not fit, or if labels are missing.
        """
        self.check_dataset_labels()
        embedded = []
        sides = dict(student=self.embed_S, teacher=self.embed_T)
        rows = sample_rows(preds_S, preds_T)
        for (name, layer), row in zip(sides.items(), rows, strict=True):
            if row.shape[1] != layer.in_features:
                raise ValueError(
                    f'{name} features must have {name}_channels='
                    f'{layer.in_features} numbers a sample, but got '
                    f'{row.shape[1]}: CRD takes pooled features'
                )
            embedded.append(crd_embedding(row, layer.weight, layer.bias))
        index = self._check_batch(sample_idx, gt_labels, len(rows[0]))
        changes = self.training and torch.is_grad_enabled()
        spans = None
        if self.negatives == 'other_classes':
            spans = self.class_order, self.class_first, self.class_count
        contrast_idx = contrast_indices(
            *self._position(changes),
            index,
            self.num_negatives,
            self.num_samples,
            spans,
        )
        memories = self.memory_S.rows, self.memory_T.rows
        log_z = self._normalisers(embedded, memories, contrast_idx, changes)
        loss = crd_loss(*embedded, *memories, contrast_idx, log_z, self.tau)
        if changes:
            for memory, units in zip(
                (self.memory_S, self.memory_T), embedded, strict=True
            ):
                memory.write(index, units.detach())
        return self.loss_weight * loss

    def _normalisers(
        self,
        embedded: Sequence[Tensor],
        memories: Sequence[Tensor],
        contrast_idx: Tensor,
        changes: bool,
    ) -> Tensor:
        """Get the constants, from this batch where there are none yet."""
        if not self._has_log_z:
            # Asked once, as it waits for the device.
            self._has_log_z = bool(self.log_z.isfinite().all())
        if self._has_log_z:
            return self.log_z
        log_z = torch.stack(
            [
                crd_log_z(units, memory, contrast_idx, self.tau)
                for units, memory in zip(
                    embedded, reversed(memories), strict=True
                )
            ]
        )
        if changes:
            self.log_z.copy_(log_z)
        return log_z

"""Losses that contrast a sample with others of the data set."""

import math

import torch
from mmengine.logging import MessageHub

import mmkd_plugin.models as package
from contracts.base import Case, LossContract, dot, noise, unit_row, widths
from contracts.inputs import BAD_ROWS, BAD_TAU, ROW_EXTREMES
from mmkd_plugin.models.losses.contrast_negatives import contrast_indices

# Of three classes, with 4, 2 and 3 samples.
DATASET_LABELS = [2, 0, 7, 0, 2, 7, 2, 2, 0]
_WORD = 2**64 - 1


def _scrambled(word: int) -> int:
    """Compute the finaliser of SplitMix64."""
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
    ):
        word = (word ^ (word >> shift)) * factor % 2**64
    return word ^ (word >> 31)


def draws_reference(seed, step, sample, count, below):
    """Draw the integers of one sample, one by one."""
    step_size = 0x9E3779B97F4A7C15
    start = _scrambled(seed % 2**64 ^ 0x632BE59BD9B4E019)
    start = _scrambled((start + step) % 2**64)
    start = _scrambled((start + sample * step_size) & _WORD)
    found = []
    for k in range(1, count + 1):
        word = _scrambled((start + k * step_size) & _WORD)
        found.append((word >> 32) * below >> 32)
    return found


def negatives_reference(seed, step, sample, count, size, labels=None):
    """List the candidates of one sample, and draw among them.

    The first number is drawn in vain.
    """
    if labels is None:
        candidates = [i for i in range(size) if i != sample]
    else:
        candidates = [
            i
            for i in sorted(range(size), key=lambda i: (labels[i], i))
            if labels[i] != labels[sample]
        ]
    draws = draws_reference(seed, step, sample, 1 + count, len(candidates))
    return [candidates[draw] for draw in draws[1:]]


def side_reference(anchors, memory, samples, negatives, log_z, tau):
    """Sum one side over a batch, term by term."""
    total = 0.0
    for anchor, i, others in zip(anchors, samples, negatives, strict=True):
        for place, j in enumerate((i, *others)):
            p = math.exp(dot(anchor, memory[j]) / tau - log_z)
            h = p / (p + len(others) / len(memory))
            total -= math.log(h) if place == 0 else math.log(1 - h)
    return total


def embedded_reference(rows, weight, bias):
    """Map rows and bring them to length 1."""
    return [
        unit_row(
            [
                dot(row, line) + b
                for line, b in zip(weight.tolist(), bias.tolist(), strict=True)
            ]
        )
        for row in rows.flatten(1).tolist()
    ]


def _part(name: str, *shape: int) -> torch.Tensor:
    """Make weights and memories, with the digits of float32."""
    made = noise(*shape, key=30 + ord(name[-1]) + len(name)).float().double()
    if name.startswith('memory'):
        made = torch.nn.functional.normalize(made).float().double()
    return made


_LOG_Z = (1.75, 2.25)
_NAMES = ('embed_S.weight', 'embed_S.bias', 'embed_T.weight', 'embed_T.bias')
_NAMES = (*_NAMES, 'memory_S.rows', 'memory_T.rows')


def crd_prepared(loss):
    """Give the loss known parts, constants and labels, and let it stay."""
    for name in _NAMES:
        value = loss.get_parameter if 'embed' in name else loss.get_buffer
        value(name).data.copy_(_part(name, *value(name).shape))
    loss.log_z.copy_(torch.tensor(_LOG_Z))
    if loss.num_samples == len(DATASET_LABELS):
        loss.set_dataset_labels(DATASET_LABELS)
    return loss.eval()


def _seed():
    # Other tests may have left one.
    return MessageHub.get_current_instance().get_info('seed') or 0


def _parts(feat_dim=128, **_):
    size = len(DATASET_LABELS)
    shapes = [(feat_dim, 3), (feat_dim,)] * 2 + [(size, feat_dim)] * 2
    return {
        name: _part(name, *shape)
        for name, shape in zip(_NAMES, shapes, strict=True)
    }


def crd_reference(preds_S, preds_T, sample_idx, gt_labels=None, **options):
    """Add up both sides."""
    parts, samples = _parts(**options), sample_idx.tolist()
    labels = DATASET_LABELS
    if options.get('negatives') == 'all_samples':
        labels = None
    negatives = [
        negatives_reference(
            _seed(),
            0,
            i,
            options['num_negatives'],
            len(DATASET_LABELS),
            labels,
        )
        for i in samples
    ]
    total = 0.0
    for preds, ours, theirs, log_z in (
        (preds_S, 'S', 'T', _LOG_Z[0]),
        (preds_T, 'T', 'S', _LOG_Z[1]),
    ):
        anchors = embedded_reference(
            preds, parts[f'embed_{ours}.weight'], parts[f'embed_{ours}.bias']
        )
        memory = parts[f'memory_{theirs}.rows'].tolist()
        total += side_reference(
            anchors,
            memory,
            samples,
            negatives,
            log_z,
            options.get('tau', 0.07),
        )
    return total / max(len(samples), 1)


def crd_function(preds_S, preds_T, sample_idx, gt_labels=None, **options):
    """Call ``crd_loss`` with what the class makes of its options."""
    parts, tau = _parts(**options), options.get('tau', 0.07)
    parts = {name: part.float() for name, part in parts.items()}
    loss = crd_prepared(package.CRDLoss(**options))
    spans = (loss.class_order, loss.class_first, loss.class_count)
    index = contrast_indices(
        _seed(),
        0,
        sample_idx,
        options['num_negatives'],
        len(DATASET_LABELS),
        spans if loss.negatives == 'other_classes' else None,
    )
    sides = [
        package.crd_embedding(
            preds.flatten(1),
            parts[f'embed_{side}.weight'],
            parts[f'embed_{side}.bias'],
        )
        for preds, side in ((preds_S, 'S'), (preds_T, 'T'))
    ]
    memories = parts['memory_S.rows'], parts['memory_T.rows']
    return package.crd_loss(*sides, *memories, index, loss.log_z, tau)


def _indexed(inputs, labels=False):
    def indexed(batch):
        index = (torch.arange(batch) * 4 + 3) % len(DATASET_LABELS)
        made = dict(inputs(batch), sample_idx=index)
        if labels:
            made['gt_labels'] = torch.tensor(DATASET_LABELS)[index]
        return made

    return indexed


_SIZE = dict(
    student_channels=3,
    teacher_channels=3,
    num_samples=len(DATASET_LABELS),
    num_negatives=6,
    feat_dim=4,
)
_INDEX = dict(sample_idx=torch.tensor([0, 1]))
_TWO = dict(preds_S=torch.ones(2, 3), preds_T=torch.ones(2, 3))


def _wrong(**options):
    return dict(_SIZE, **options)


LOSSES = dict(
    CRDLoss=LossContract(
        cases=dict(
            default=Case(_SIZE, _indexed(widths((3,), (3,)))),
            all_samples=Case(
                dict(_SIZE, negatives='all_samples', tau=0.5),
                _indexed(widths((1, 3), (3,))),
            ),
            wide=Case(
                dict(_SIZE, feat_dim=128, momentum=0),
                _indexed(widths((3,), (3,)), labels=True),
            ),
        ),
        reference=crd_reference,
        function=crd_function,
        prepare=crd_prepared,
        extremes={
            key: dict(made, sample_idx=torch.tensor([8, 2, 2])[: len(rows)])
            for key, made in ROW_EXTREMES.items()
            for rows in [made['preds_S']]
        },
        rejected=[
            *((_wrong(**options), message) for options, message in BAD_TAU),
            *(
                (_wrong(**{name: bad}), f'{name} must .* got {bad}')
                for name in (
                    'student_channels',
                    'teacher_channels',
                    'feat_dim',
                    'num_negatives',
                )
                for bad in (0, 2.5)
            ),
            (_wrong(num_samples=1), r'num_samples must .*>= 2, but got 1'),
            (
                _wrong(num_samples=2**25),
                'num_samples .*<= 16777216, .* got 33',
            ),
            (_wrong(momentum=1), 'momentum must be .*< 1, but got 1'),
            (_wrong(momentum=-0.1), 'momentum must be .*>= 0.* got -0.1'),
            (
                _wrong(negatives='exact'),
                r"negatives must be one of \('other_classes', .* got 'exact'",
            ),
        ],
        rejected_inputs=[
            *(
                (_SIZE, dict(inputs, **_INDEX), message)
                for _, inputs, message in BAD_ROWS
            ),
            (
                _SIZE,
                dict(_TWO, preds_T=torch.ones(2, 3, 2, 1), **_INDEX),
                'teacher features must have teacher_channels=3 .* got 6: CRD',
            ),
            *(
                (_SIZE, dict(_TWO, sample_idx=index), message)
                for index, message in (
                    (torch.tensor([0, 9]), r'in \[0, 9\), .* but got 9'),
                    (torch.tensor([-1, 0]), r'in \[0, 9\), .* but got -1'),
                    (torch.tensor([0.0, 1.0]), 'integers .* got torch.float'),
                    (torch.tensor([0]), 'but got 1 of them for 2 samples'),
                    ([0, 1], 'sample_idx must be a tensor, but got a list'),
                )
            ),
            (
                _SIZE,
                dict(_TWO, **_INDEX, gt_labels=torch.tensor([2, 7])),
                'got 7 for sample 1, which has 0: sample_idx must be pos',
            ),
            (
                _SIZE,
                dict(_TWO, **_INDEX, gt_labels=torch.tensor([2])),
                r'gt_labels must have the shape \(2,\), but got \(1,\)',
            ),
        ],
    ),
)

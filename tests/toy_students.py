"""Several small students that are trained together."""

import torch
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from toy_runs import PREPROCESSOR, classifier

# Of the toys' images.
CLASSES = 3
VIEWS = dict(
    PREPROCESSOR, views=2, augments=[dict(type='BatchRandomFlip', prob=0.5)]
)


def students(*widths):
    """Configs of students ``a``, ``b``, ... of these widths."""
    return dict(zip('abcd', map(classifier, widths)))  # noqa: B905


def online(kind='DML', widths=(2, 3), seed=0, **options):
    """Build a scheme with students whose answers are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS.build(
            {
                'type': kind,
                'students': students(*widths),
                'data_preprocessor': dict(PREPROCESSOR),
                **options,
            }
        )
        for student in model.students.values():
            student.head.fc.weight.data.normal_()
            student.head.fc.bias.data.normal_()
    return model.train()


def batch(num=6, views=1, seed=0):
    """Images, one tensor for each view if there are several, and labels."""
    generator = torch.Generator().manual_seed(seed)
    images = [
        torch.randn(num, 3, 8, 8, generator=generator) for _ in range(views)
    ]
    labels = torch.randint(0, CLASSES, (num,), generator=generator)
    return dict(
        inputs=images[0] if views == 1 else images,
        data_samples=[DataSample().set_gt_label(label) for label in labels],
    )


def labels_of(data):
    return torch.cat([sample.gt_label for sample in data['data_samples']])

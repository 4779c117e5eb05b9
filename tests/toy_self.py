"""Small self-distillations that several tests build."""

import torch
from mmengine.registry import MODELS
from toys import architecture

from mmkd_plugin.structures import BatchSamples

LOGITS = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
STUDENT = dict(from_student=True, recorder='logits')
LABELS = dict(from_batch='gt_label')


def one_loss(loss, mapping, **more):
    """Get the config of a distiller with one loss on the logits."""
    return dict(
        type='ConfigurableDistiller',
        student_recorders=LOGITS,
        distill_losses=dict(loss_self=loss),
        loss_forward_mappings=dict(loss_self=mapping),
        **more,
    )


def config(name, student=None, **options):
    """Get the config of a scheme.

    Args:
        name (str): ``'PSKD'``, ``'DLB'``, ``'CSKD'`` or ``'TFKD'``.
        student (dict, optional): Config of the student.
        **options: Further options; those of the loss in ``loss``.
    """
    loss = options.pop('loss', {})
    made = dict(
        PSKD=lambda: dict(
            type='PSKD',
            num_samples=12,
            calculate_student_loss=False,
            distiller=one_loss(
                dict(type='PSKDLoss', **loss),
                dict(
                    preds_S=STUDENT,
                    past_probs=dict(from_batch='past_probs'),
                    gt_labels=LABELS,
                ),
            ),
        ),
        DLB=lambda: dict(
            type='DLB',
            batch_size=4,
            distiller=one_loss(
                dict(type='DLBLoss', **loss),
                dict(
                    preds_S=STUDENT,
                    past_logits=dict(from_batch='past_logits'),
                ),
            ),
        ),
        CSKD=lambda: dict(
            type='CSKD',
            distiller=one_loss(
                dict(type='CSKDLoss', **loss),
                dict(
                    preds_S=STUDENT,
                    preds_T=dict(from_student=False, recorder='logits'),
                ),
                teacher_recorders=LOGITS,
            ),
        ),
        TFKD=lambda: dict(
            type='SelfDistill',
            calculate_student_loss=False,
            distiller=one_loss(
                dict(type='TFKDLoss', **loss),
                dict(preds_S=STUDENT, gt_labels=LABELS),
            ),
        ),
    )[name]()
    return {**made, 'student': student or architecture(), **options}


def build(name, seed=0, **options):
    """Build a scheme whose student's answers are not flat."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS.build(config(name, **options))
        model.student.head.fc.weight.data.normal_()
    return model.train()


def samples(index, labels=None):
    """Make the data samples of a batch."""
    index = torch.as_tensor(index)
    if labels is None:
        labels = index % 5
    return BatchSamples(index, torch.as_tensor(labels))


def train_step(model, images, given, lr=0.05, forward=None):
    """Make a step of plain descent on a batch that is ready.

    Args:
        model (nn.Module): The scheme.
        images (Tensor): Normalised images.
        given (Sequence): Their data samples.
        lr (float): Rate of the step.
        forward (nn.Module, optional): The model in its wrapper.

    Returns:
        dict[str, float]: The log.
    """
    model.zero_grad()
    loss, log = model.parse_losses((forward or model)(images, given, 'loss'))
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= lr * parameter.grad
    return {name: value.item() for name, value in log.items()}

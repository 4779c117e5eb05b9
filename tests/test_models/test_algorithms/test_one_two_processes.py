"""ONE on two processes and on one, in float64."""

import pytest
import torch
from ddp import run_processes
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope
from toys import CLASSES, architecture

EPOCH = 30


def gradient(rank):
    """Compute one gradient; of all of the batch where ``rank`` is None."""
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='ONE',
            student=architecture(stages=2),
            branch_from='backbone.layer2',
            data_preprocessor=dict(
                type='BatchAugDataPreprocessor',
                mean=[120.0] * 3,
                std=[60.0] * 3,
            ),
        )
    ).double()
    for branch in (model.student, *model.branches.values()):
        branch.head.fc.weight.data.normal_()
    model.set_progress(epoch=EPOCH)
    # Batch statistics are those of a process.
    model.eval()
    model.gate.bn.running_mean.normal_()
    generator = torch.Generator().manual_seed(5)
    batch = dict(
        inputs=torch.randint(
            0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator
        ),
        gt_label=torch.arange(4) % CLASSES,
        sample_idx=torch.arange(4),
    )
    forward = model
    if rank is not None:
        batch = {key: value[rank::2] for key, value in batch.items()}
        forward = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
    data = model.data_preprocessor(batch, False)
    data['inputs'] = data['inputs'].double()
    for _ in range(2):
        # DDP complains in the second pass if the first left something out.
        model.zero_grad()
        losses = forward(**data, mode='loss')
        total, log = model.parse_losses(losses)
        total.backward()
    return dict(
        log={key: value.item() for key, value in log.items()},
        gradients={k: p.grad for k, p in model.named_parameters()},
    )


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found."""
    return run_processes(gradient, tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='module')
def joint():
    """What one process finds with the batch of both."""
    return gradient(None)


def test_gradient_is_that_of_the_joint_batch(ranks, joint):
    expected = joint['gradients']
    assert len(expected) > 20
    for rank in ranks:
        assert rank['gradients'].keys() == expected.keys()
        for key, value in expected.items():
            assert value.abs().max() > 0, key
            gap = (rank['gradients'][key] - value).abs().max()
            assert gap <= 1e-10 * value.abs().max(), key


def test_log_is_that_of_the_joint_batch(ranks, joint):
    assert len(joint['log']) == 1 + 3 + 1 + 3
    for key, value in joint['log'].items():
        assert value > 0
        mean = sum(rank['log'][key] for rank in ranks) / 2
        assert mean == pytest.approx(value, rel=1e-10), key

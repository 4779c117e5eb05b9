"""SDD's own config on two processes and on one, in float64.

But for the teacher's depth, which makes no difference to the gradients.
"""

from pathlib import Path

import pytest
import torch
from ddp import run_processes
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODELS, init_default_scope

CONFIGS = Path(__file__).resolve().parents[3] / 'configs'
NAMES = ('sdd_kd_r32x4_r8x4_cifar100.py', 'sdd_dkd_r32x4_r8x4_cifar100.py')
EPOCH = 4


def gradient(rank, name):
    """Compute one gradient; of all of the batch where ``rank`` is None."""
    config = Config.fromfile(CONFIGS / name)
    init_default_scope(config.default_scope)
    torch.manual_seed(0)
    config.model.teacher.backbone.depth = 8
    config.model.teacher = MODELS.build(config.model.teacher)
    # Answers that are not flat, so that regions differ from the whole.
    config.model.teacher.head.fc.weight.data.normal_()
    config.model.pop('teacher_ckpt')
    model = MODELS.build(config.model).double()
    model.student.head.fc.weight.data.normal_()
    model.distiller.set_progress(epoch=EPOCH, iteration=0)
    # Batch statistics are those of a process.
    model.eval()
    generator = torch.Generator().manual_seed(5)
    batch = dict(
        inputs=torch.randint(
            0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator
        ),
        gt_label=torch.randint(0, 100, (4,), generator=generator),
        sample_idx=torch.arange(4),
    )
    # Some answers of the teacher are right.
    with torch.no_grad():
        images = model.data_preprocessor(dict(batch), False)['inputs']
        batch['gt_label'][:2] = model.teacher(images[:2].double()).argmax(1)
    if rank is not None:
        # Right and wrong ones on both.
        batch = {key: value[rank::2] for key, value in batch.items()}
    forward = model
    if rank is not None:
        forward = MMDistributedDataParallel(
            model, find_unused_parameters=False
        )
    data = model.data_preprocessor(batch, False)
    data['inputs'] = data['inputs'].double()
    losses = forward(**data, mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    return dict(
        log={key: value.item() for key, value in log.items()},
        gradients={k: p.grad for k, p in model.named_parameters()},
    )


def gradients(rank):
    return {name: gradient(rank, name) for name in NAMES}


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What two processes found; they are started once for all tests."""
    return run_processes(gradients, tmp_path_factory.mktemp('ranks'))


@pytest.fixture(scope='module')
def joint():
    """What one process finds with the batch of both."""
    return gradients(None)


@pytest.mark.parametrize('name', NAMES)
def test_gradient_is_that_of_the_joint_batch(ranks, joint, name):
    expected = joint[name]
    assert len(expected['gradients']) > 20
    for rank in ranks:
        found = rank[name]['gradients']
        assert found.keys() == expected['gradients'].keys()
        for key, value in expected['gradients'].items():
            assert value.abs().max() > 0, key
            gap = (found[key] - value).abs().max()
            assert gap <= 1e-10 * value.abs().max(), key


@pytest.mark.parametrize('name', NAMES)
def test_log_is_that_of_the_joint_batch(ranks, joint, name):
    expected = joint[name]['log']
    assert 'distill.sdd_consistent' in expected
    for key, value in expected.items():
        mean = sum(rank[name]['log'][key] for rank in ranks) / 2
        assert mean == pytest.approx(value, rel=1e-10), key
    parts = [
        expected[f'distill.sdd_{k}'] for k in ('consistent', 'complementary')
    ]
    assert all(part > 0 for part in parts)
    assert sum(parts) == pytest.approx(expected['distill.loss_sdd'])
    assert expected['loss'] == pytest.approx(
        expected['student.loss'] + expected['distill.loss_sdd']
    )

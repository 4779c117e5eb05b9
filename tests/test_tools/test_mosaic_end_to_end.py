"""MosaicKD as a user runs it: on real images, killed, resumed, misused."""

import json
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forks import ToolProcess, run_ranks
from mmengine.config import Config
from PIL import Image
from test_train_end_to_end import (
    DEMO,
    ENV,
    ROOT,
    call,
    command,
    kill_at_random,
    load_tool,
    log_of,
    real_cifar100,
    real_images,
    save_untrained,
)

from mmkd_plugin.engine.export import export_student

DIGITS = DEMO / 'mosaickd_digits.py'
REAL = ROOT / 'configs' / 'mosaickd_wrn402_wrn161_cifar100_ood-cifar10.py'
HOOK = 'default_hooks.mosaic'
STATE = 'mosaic_generator_hook'
# The images beside the checkout were compressed, which no check of files lets
# pass; and the first ones will do.
COMPRESSED_CIFAR10 = """
from mmpretrain.datasets import CIFAR10


class CompressedCIFAR10(CIFAR10):
    train_list = CIFAR10.train_list[:1]

    def _check_integrity(self):
        return True
"""


@pytest.fixture(scope='module', autouse=True)
def on_the_cpu(tmp_path_factory):
    """Bits are promised there, and it is where gloo runs."""
    modules = tmp_path_factory.mktemp('modules')
    (modules / 'compressed_cifar10.py').write_text(COMPRESSED_CIFAR10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENV, 'CUDA_VISIBLE_DEVICES', '')
        patch.setitem(ENV, 'OMP_WAIT_POLICY', 'PASSIVE')
        patch.setitem(ENV, 'PYTHONPATH', str(modules))
        yield


def save_teacher(config, path):
    """Save a teacher that knows nothing, but is sure of some images."""
    save_untrained(Config.fromfile(config).model.teacher, path)
    weights = torch.load(path)
    weights['head.fc.weight'] *= 30
    torch.save(weights, path)
    return path


@pytest.fixture(scope='module')
def real(tmp_path_factory):
    """Options for short runs on the real CIFAR-10 and CIFAR-100."""
    folder = tmp_path_factory.mktemp('real')
    cifar100 = real_cifar100(tmp_path_factory)
    images = real_images('data/cifar10_q90.zip')
    batches = folder / 'cifar10' / 'cifar-10-batches-py'
    batches.mkdir(parents=True)
    content = {
        'data_batch_1': dict(
            data=images.transpose(0, 3, 1, 2).reshape(len(images), -1),
            labels=[0] * len(images),
        ),
        'batches.meta': dict(label_names=list('abcdefghij')),
    }
    for name, entry in content.items():
        (batches / name).write_bytes(pickle.dumps(entry))
    dataset = 'train_dataloader.dataset.dataset'
    return [
        f'model.teacher_ckpt={save_teacher(REAL, folder / "teacher.pth")}',
        f'{dataset}.type=compressed_cifar10.CompressedCIFAR10',
        f'{dataset}.data_root={folder / "cifar10"}',
        f'val_dataloader.dataset.dataset.data_root={cifar100}',
        'train_dataloader.batch_size=8',
        'train_cfg.max_epochs=3',
        f'{HOOK}.picture_interval=2',
        # No multiple of the five steps between two updates.
        'train_dataloader.num_batch_per_epoch=4',
        'val_dataloader.batch_size=20',
        'val_dataloader.dataset.dataset.indices=20',
        'default_hooks.checkpoint.interval=1',
        'default_hooks.checkpoint.max_keep_ckpts=3',
        'default_hooks.checkpoint.save_best=None',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='module')
def runs(tmp_path_factory, real):
    """Work dirs and logs of two runs of three epochs.

    The first one is uninterrupted, the second one is killed after its first
    epoch and resumed. They run at once, as there are two cores nearly
    everywhere.
    """
    folder = tmp_path_factory.mktemp('runs')
    seed = int(np.random.default_rng().integers(2**32))
    print(f'kill seed {seed}')

    def fork(name, *options, flags=()):
        return ToolProcess(
            command(REAL, folder / name, *real, *options, flags=flags)[1:],
            ENV,
            folder / f'{name}.txt',
        )

    # Another number of workers, to show that it does not matter.
    workers = 'train_dataloader.num_workers=2'
    whole, killed = fork('whole'), fork('killed', workers)
    kill_at_random(killed, folder / 'killed', np.random.default_rng(seed))
    assert not (folder / 'killed' / 'epoch_3.pth').exists()
    resumed = fork('killed', workers, flags=['--resume'])
    outs = whole.text(), resumed.text()
    return folder / 'whole', folder / 'killed', *outs


def leaves(value, path=''):
    """List everything in nested containers by its place."""
    if isinstance(value, dict):
        children = value.items()
    elif isinstance(value, (list, tuple)):
        children = enumerate(value)
    else:
        return {path: value}
    return {
        place: leaf
        for key, child in children
        for place, leaf in leaves(child, f'{path}.{key}').items()
    }


def training_state(path):
    """Read what a checkpoint goes on with: student, players, optimizers."""
    checkpoint = torch.load(path, weights_only=False)
    names = {'state_dict', 'optimizer', 'param_schedulers', STATE}
    # Not every run has schedules.
    assert names - checkpoint.keys() <= {'param_schedulers'}
    return leaves({name: checkpoint.get(name) for name in names})


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        same = (
            torch.equal(value, two[name])
            if isinstance(value, torch.Tensor)
            else value == two[name]
        )
        assert same, name


def test_real_images(runs):
    """Log, pictures, checkpoint and report of the published pair."""
    work_dir, _, out, _ = runs
    assert '2,026,051 parameters' in out
    assert '531,328' in out
    assert 'have a side of 10 pixels' in out
    names = ('d', 'g', 'adv', 'align', 'local', 'balance')
    for term in [f'mosaic.loss_{name}' for name in names]:
        assert f'{term}: ' in out
    assert 'mosaic.confidence: ' in out
    for name in ('first', 'latest'):
        with Image.open(work_dir / 'mosaic' / f'{name}.png') as picture:
            picture.verify()
    state = training_state(work_dir / 'epoch_3.pth')
    players = f'.{STATE}.players'
    # Of 12 iterations, every fifth one: 0, 5, 10.
    assert state[f'{players}.discriminator_optimizer.state.0.step'] == 3
    assert not [name for name in state if 'teacher' in name]
    report = json.loads((work_dir / 'report' / 'report.json').read_text())
    curve = {
        name: np.array(report['curves'][f'train/{name}']['value'])
        for name in ('mosaic.loss_d', 'mosaic.class_entropy', 'loss')
    }
    assert {len(values) for values in curve.values()} == {12}
    # A new discriminator is about to toss a coin.
    assert abs(curve['mosaic.loss_d'][0] - np.log(2)) < 0.1
    page = (work_dir / 'report' / 'index.html').read_text()
    assert page.count('data:image/png') == 2


def test_killed_and_resumed_equals_uninterrupted(runs):
    whole, killed, _, out = runs
    assert 'resumed epoch' in out
    assert_same(
        training_state(whole / 'epoch_3.pth'),
        training_state(killed / 'epoch_3.pth'),
    )


@pytest.fixture(scope='module')
def tool():
    return load_tool('train')


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Options for short runs on the embedded data."""
    path = tmp_path_factory.mktemp('demo') / 'teacher.pth'
    return [
        f'model.teacher_ckpt={save_teacher(DIGITS, path)}',
        'train_dataloader.dataset.num_images=64',
        'train_dataloader.batch_size=8',
        'train_dataloader.sampler.num_samples=16',
        'default_hooks.logger.interval=1',
    ]


def test_sdd_in_two_processes(tmp_path, demo):
    """SDD as the student's loss from a config alone, distributed."""
    config = tmp_path / 'mosaickd_sdd_digits.py'
    sdd = Config.fromfile(DEMO / 'sdd_kd_random_digits.py').model.distiller
    config.write_text(
        f"_base_ = ['{DIGITS}']\n"
        f'model = dict(distiller=dict(_delete_=True, **{sdd.to_dict()}))\n'
    )

    arguments = command(
        config,
        tmp_path / 'run',
        *demo,
        'train_dataloader.batch_size=4',
        'train_dataloader.sampler.num_samples=24',
        f'{HOOK}.student_steps=2',
        f'{HOOK}.picture_interval=2',
        'train_cfg.max_epochs=2',
        'param_scheduler=None',
        flags=['--launcher', 'pytorch'],
    )
    out = ''.join(run_ranks(arguments[1:], ENV, tmp_path))
    # Of one of the two alone.
    assert out.count('Epoch(train) [2][3/3]') == 1
    assert out.count('MosaicKD: generator of ') == 1
    for term in (
        'distill.loss_sdd',
        'distill.sdd_consistent',
        'distill.sdd_complementary',
        'mosaic.loss_g',
    ):
        assert f'{term}: ' in out
    # Iterations 0, 2 and 4. Resuming on two processes is tested with the hook.
    state = training_state(tmp_path / 'run' / 'epoch_2.pth')
    assert state[f'.{STATE}.players.generator_optimizer.state.0.step'] == 3


# In the place of epochs.
ITERATIONS = [
    'train_cfg._delete_=True',
    'train_cfg.type=IterBasedTrainLoop',
    'train_cfg.val_interval=100',
    'default_hooks.checkpoint.by_epoch=False',
    'log_processor.by_epoch=False',
    'param_scheduler=None',
    # The engine waits for two seconds at the end of the images.
    'train_dataloader.dataset.num_images=256',
    'train_dataloader.sampler.num_samples=72',
]


@pytest.fixture(scope='module')
def mixed(tmp_path_factory, demo, tool):
    """Config, work dir and log of a run that is unusual in all ways.

    The hook stands beside the recipe of another method, and there are
    iterations instead of epochs.
    """
    folder = tmp_path_factory.mktemp('mixed')
    config = folder / 'eeikd_mosaic.py'
    hook = Config.fromfile(DIGITS).default_hooks.mosaic.to_dict()
    config.write_text(
        f"_base_ = ['{DEMO / 'eeikd_digits.py'}']\n"
        f'default_hooks = dict(mosaic={hook})\n'
    )
    call(
        tool,
        command(
            config,
            folder / 'run',
            *demo,
            *ITERATIONS,
            'train_cfg.max_iters=7',
            f'{HOOK}.student_steps=5',
        )[1:],
    )
    return config, folder / 'run', log_of(folder / 'run')


def test_losses_of_eeikd_on_selected_images(mixed):
    _, work_dir, out = mixed
    assert '72 chosen' in out
    assert 'Iter(train) [7/7]' in out
    for term in (
        'distill.loss_kl',
        'distill.loss_front',
        'distill.loss_back',
        'distill.loss_relation',
        'mosaic.loss_g',
    ):
        assert f'{term}: ' in out
    assert (work_dir / 'mosaic' / 'latest.png').exists()
    state = training_state(work_dir / 'iter_7.pth')
    # Iterations 0 and 5.
    assert state[f'.{STATE}.players.generator_optimizer.state.0.step'] == 2


def test_tools_ignore_the_players(tmp_path, mixed):
    config, work_dir, _ = mixed
    checkpoint = str(work_dir / 'iter_7.pth')
    metrics = tmp_path / 'metrics.json'
    options = ('--out', metrics, '--work-dir', tmp_path / 'test')
    call(load_tool('test'), ['test.py', config, checkpoint, *options])
    assert 'accuracy/top1' in json.loads(metrics.read_text())
    student = tmp_path / 'student.pth'
    export_student(Config.fromfile(config), checkpoint, str(student))
    exported = torch.load(student, weights_only=True)['state_dict']
    trained = torch.load(checkpoint, weights_only=False)['state_dict']
    assert exported.keys() == {
        name.removeprefix('student.')
        for name in trained
        if name.startswith('student.')
    }


@pytest.fixture
def refused(tool, tmp_path, monkeypatch):
    """Function that gets the message by which a run is refused.

    It is None where the engine would start.
    """
    folder = tmp_path / 'here'
    folder.mkdir()
    monkeypatch.chdir(folder)

    class Started(Exception):
        pass

    class Runner:
        @staticmethod
        def from_cfg(config):
            raise Started

    monkeypatch.setattr(tool, 'Runner', Runner)

    def message(config, *options, flags=()):
        arguments = command(config, folder / 'run', *options, flags=flags)
        monkeypatch.setattr(sys, 'argv', arguments[1:])
        try:
            with pytest.raises(SystemExit) as exit_:
                tool.main()
        except Started:
            return None
        finally:
            assert not list(folder.iterdir())
        assert exit_.value.code.startswith('error: ')
        return exit_.value.code

    return message


def test_players_anew_beside_a_trained_student(tmp_path, demo, mixed, refused):
    """What the message of a checkpoint without players says to do."""
    config, work_dir, _ = mixed
    checkpoint = torch.load(work_dir / 'iter_7.pth', weights_only=False)
    del checkpoint[STATE]
    path = tmp_path / 'iter_7.pth'
    torch.save(checkpoint, path)
    options = [*demo, *ITERATIONS, 'train_cfg.max_iters=9']
    flags = ['--resume', str(path)]
    text = refused(config, *options, flags=flags)
    assert 'has no state of MosaicGeneratorHook' in text
    assert "missing_state='restart'" in text
    options.append(f'{HOOK}.missing_state=restart')
    assert refused(config, *options, flags=flags) is None


def test_broken_player_is_named(tmp_path, demo, tool):
    """A generator that explodes after the first checkpoints."""
    optimizer = f'{HOOK}.generator_optimizer'
    work_dir = tmp_path / 'run'
    with pytest.raises(SystemExit) as exit_:
        call(
            tool,
            command(
                DIGITS,
                work_dir,
                *demo,
                'train_cfg.max_epochs=20',
                f'{HOOK}.student_steps=1',
                f'{HOOK}.anneal=False',
                f'{HOOK}.picture_interval=20',
                f'{optimizer}.type=SGD',
                f'{optimizer}.lr=1.0',
                f'{optimizer}.momentum=100.0',
            )[1:],
        )
    message = exit_.value.code
    last = Path((work_dir / 'last_checkpoint').read_text())
    assert re.match(
        f'error: the (weights of the )?generator.* became NaN or infinite .* '
        f'The last good checkpoint is {re.escape(str(last))}',
        message,
    )
    for name, value in training_state(last).items():
        if isinstance(value, torch.Tensor):
            assert value.isfinite().all(), name


def test_missing_files_are_one_message(refused):
    text = refused(REAL, 'train_dataloader.batch_size=8')
    assert '3 of the inputs are missing' in text
    for part in (
        'python tools/train.py configs/teachers/wrn40_2_cifar100.py',
        "CIFAR10('data/cifar10', download=True)",
        "CIFAR100('data/cifar100', download=True)",
    ):
        assert part in text


ANOTHER_LOADER = [
    f'{HOOK}.real_dataloader.batch_size=8',
    f'{HOOK}.real_dataloader.drop_last=True',
    f'{HOOK}.real_dataloader.dataset.type=DemoGlyphs',
    f'{HOOK}.real_dataloader.sampler.type=DefaultSampler',
]


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (
            [f'{HOOK}.discriminator.patch_size=22'],
            'not be larger than the image, but got 22 .* nearest: 10, 14',
        ),
        (
            [f'{HOOK}.generator.image_size=18'],
            'image_size must be a multiple of 4 .*got 18, nearest: 16, 20',
        ),
        (
            [f'{HOOK}.generator.image_size=32'],
            'makes images of 32x32, but the real images are 16x16',
        ),
        (
            ['train_dataloader.batch_size=65'],
            'the data set of 16 out-of-domain .* smaller than a batch of 65',
        ),
        (
            [
                'train_dataloader.batch_size=65',
                'train_dataloader.sampler.num_samples=100',
            ],
            'the data set of 64 out-of-domain .* smaller than a batch of 65',
        ),
        (
            [f'{HOOK}.student_stps=5'],
            "no option 'student_stps'; nearest: student_steps",
        ),
        (
            [f'{HOOK}.student_steps=many'],
            "student_steps must be an integer, but got 'many'",
        ),
        (
            [f'{HOOK}.generator=MosaicGenerator'],
            "must be a config with its type, but got 'MosaicGenerator'",
        ),
        (
            [f'{HOOK}.discriminator.type=PatchJudge'],
            "there is no 'PatchJudge'",
        ),
        (
            [f'{HOOK}.generator_optimizer.type=Adamm'],
            "there is no 'Adamm' .*nearest: Adam",
        ),
        (
            [
                'model.data_preprocessor.mean=None',
                'model.data_preprocessor.std=None',
            ],
            "the teacher's normalisation is unknown: give mean and std",
        ),
        (
            ['model.calculate_student_loss=True'],
            'DemoGlyphs. has no labels, .*calculate_student_loss=False',
        ),
        (
            [f'{HOOK}.real_dataloader.batch_size=8'],
            r"real_dataloader .* needs \['dataset', 'sampler'\]",
        ),
        (
            [*ANOTHER_LOADER, f'{HOOK}.real_dataloader.dataset.num_images=4'],
            'the data set of 4 real images is smaller than a batch of 8',
        ),
        (
            [
                *ANOTHER_LOADER,
                f'{HOOK}.real_dataloader.dataset.num_images=8',
                f'{HOOK}.real_dataloader.dataset.size=8',
            ],
            'makes images of 16x16, but the real images are 8x8',
        ),
        (
            [*ANOTHER_LOADER, f'{HOOK}.real_dataloader.dataset.type=Glyphs'],
            "real_dataloader.dataset: there is no 'Glyphs'",
        ),
        (
            [
                *ANOTHER_LOADER,
                f'{HOOK}.real_dataloader.dataset.type=CIFAR10',
                f'{HOOK}.real_dataloader.dataset.data_root=nowhere',
                f'{HOOK}.real_dataloader.dataset.download=False',
            ],
            'real_dataloader.dataset: Cannot find CIFAR10 dataset in nowhere',
        ),
        (
            [
                *ANOTHER_LOADER,
                f'{HOOK}.real_dataloader.sampler.type=DefaultSamplr',
            ],
            'no sampler .*DefaultSamplr.*nearest: DefaultSampler',
        ),
        (
            [f'{HOOK}.real_dataloader=images'],
            "real_dataloader must be a config, but got 'images'",
        ),
    ],
)
def test_mistakes(refused, demo, options, match):
    assert re.search(match, refused(DIGITS, *demo, *options))


def test_hook_that_is_there_twice(refused, demo, tmp_path):
    config = tmp_path / 'twice.py'
    config.write_text(
        f"_base_ = ['{DIGITS}']\n"
        'custom_hooks = [*_base_.custom_hooks, _base_.default_hooks.mosaic]\n'
    )
    text = refused(config, *demo)
    assert 'twice, as default_hooks.mosaic and as custom_hooks.6' in text


def test_mixed_precision_needs_an_accelerator(refused, demo, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    text = refused(DIGITS, *demo, flags=['--amp'])
    assert '--amp needs an accelerator' in text

"""What is found wrong before a run writes anything."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from toy_runs import (
    PREPROCESSOR,
    classifier,
    distillation,
    mosaic_hook,
    save_teacher,
)
from toy_students import VIEWS, students

from mmkd_plugin.datasets import RandomSubsetSampler
from mmkd_plugin.engine.preflight import (
    fail,
    missing_inputs,
    missing_inputs_message,
    preflight,
)


def need(key, **kwargs):
    return dict(key=key, make=f'make {key}', **kwargs)


def test_everything_that_is_missing_is_listed(tmp_path):
    there = tmp_path / 'there.pth'
    there.write_bytes(b'')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'full' / 'images').mkdir(parents=True)
    config = Config(
        dict(
            a=str(there),
            b=dict(path='nowhere.pth'),
            c=dict(parts=[dict(root=str(tmp_path / 'empty'))]),
            d=str(tmp_path / 'full'),
            e='nowhere',
            optional='nowhere.too',
            required_inputs=[
                need('a'),
                need('b.path'),
                need('c.parts.0.root', holds='images'),
                need('d', holds='images'),
                need('e', holds='images'),
                need('f.not.there'),
                dict(key='g'),
                dict(key='optional'),
            ],
        )
    )
    assert missing_inputs(config) == [
        "b.path = 'nowhere.pth'\n      make it with: make b.path",
        f'c.parts.0.root = {str(tmp_path / "empty")!r} (holds no '
        f"'images')\n      make it with: make c.parts.0.root",
        "e = 'nowhere'\n      make it with: make e",
        'f.not.there = None\n      make it with: make f.not.there',
        "optional = 'nowhere.too'",
    ]


def test_nothing_is_missing():
    assert missing_inputs(Config()) == []
    assert missing_inputs(Config(dict(required_inputs=[]))) == []


def test_usual_places_are_looked_at_without_a_list(tmp_path):
    (tmp_path / 'data').mkdir()
    config = Config(
        dict(
            model=dict(teacher_ckpt='teacher.pth', student_ckpt=None),
            train_dataloader=dict(dataset=dict(data_file='heap.npz')),
            val_dataloader=dict(
                dataset=dict(
                    data_root='',
                    dataset=dict(data_root=str(tmp_path / 'data')),
                )
            ),
        )
    )
    assert missing_inputs(config) == [
        "model.teacher_ckpt = 'teacher.pth'",
        "train_dataloader.dataset.data_file = 'heap.npz'",
    ]
    # The config knows better.
    config.required_inputs = []
    assert missing_inputs(config) == []


@pytest.mark.parametrize('listed', [None, []])
def test_the_checkpoint_to_go_on_from(listed):
    config = Config(dict(load_from='gone.pth', required_inputs=listed))
    assert missing_inputs(config) == ["load_from = 'gone.pth'"]
    config.load_from = 'https://there.example/weights.pth'
    assert missing_inputs(config) == []


def test_message():
    text = missing_inputs_message(['one', 'two'], 'python tools/train.py c.py')
    assert text.startswith('2 of the inputs are missing:\n  * one\n  * two\n')
    assert 'python tools/train.py c.py --cfg-options KEY=PATH' in text


@pytest.fixture
def config(tmp_path):
    """A config in which nothing is wrong."""
    return Config(
        dict(
            default_scope='mmpretrain',
            model=distillation(save_teacher(tmp_path / 'teacher.pth')),
            train_dataloader=dict(
                dataset=dict(type='DemoGlyphs', num_images=2, size=8),
                sampler=dict(
                    type='AdaptiveThresholdSampler', num_samples=1, gamma=0.5
                ),
            ),
        )
    )


def test_a_good_config_passes_and_is_not_changed(config):
    before = config.pretty_text
    preflight(config)
    assert config.pretty_text == before


def test_missing_inputs_come_first(config):
    config.model.teacher_ckpt = 'nowhere.pth'
    config.train_dataloader.sampler.gamma = 7
    with pytest.raises(FileNotFoundError) as error:
        preflight(config, 'python tools/train.py some.py')
    message = str(error.value)
    assert message.startswith('1 of the inputs are missing')
    assert "model.teacher_ckpt = 'nowhere.pth'" in message
    assert 'python tools/train.py some.py --cfg-options' in message


@pytest.mark.parametrize(
    ('changes', 'error', 'match'),
    [
        (dict(gamma=1.5), ValueError, 'gamma must be .* but got 1.5'),
        (dict(num_samples=0), ValueError, 'num_samples must .* but got 0'),
        (dict(order='best'), ValueError, "order must be .*'best'"),
        (dict(gama=0.5), TypeError, 'AdaptiveThresholdSampler: .*gama'),
        (
            dict(type='AdaptiveThreshold'),
            KeyError,
            'no sampler .*; nearest: AdaptiveThresholdSampler',
        ),
        (dict(type='RandomSubsetSampler'), TypeError, 'Random.*gamma'),
    ],
)
def test_wrong_samplers(config, changes, error, match):
    config.train_dataloader.sampler.update(changes)
    # Before the model is built, which takes longer.
    config.model = dict(type='Nothing')
    with pytest.raises(error, match=match):
        preflight(config)


@pytest.mark.parametrize(
    ('key', 'value', 'match'),
    [
        (
            'train_cfg',
            dict(type='EpochBasedTrainLop', max_epochs=1),
            'no loop for train_cfg .*; nearest: EpochBasedTrainLoop',
        ),
        (
            'val_cfg',
            dict(type='StudentValLoop'),
            'no loop for val_cfg .*; nearest: StudentsValLoop',
        ),
        (
            'val_evaluator',
            dict(type='Acuracy'),
            "no metric for val_evaluator 'Acuracy'; nearest: Accuracy",
        ),
        (
            'test_evaluator',
            [dict(type='Accuracy'), dict(type='SingleLabelMetrics')],
            'no metric for test_evaluator .*; nearest: SingleLabelMetric',
        ),
        (
            'custom_hooks',
            [dict(type='EMAHook'), dict(type='DistilReportHook')],
            r'no hook for custom_hooks\.1 .*; nearest: DistillReportHook',
        ),
        (
            'default_hooks',
            dict(logger=None, timer=dict(type='IterTimeHook')),
            r'no hook for default_hooks\.timer .*; nearest: IterTimerHook',
        ),
    ],
)
def test_wrong_names(config, key, value, match):
    config[key] = value
    with pytest.raises(KeyError, match=match):
        preflight(config)


def test_names_of_the_engine_and_of_mmpretrain(config):
    config.train_cfg = dict(by_epoch=True, max_epochs=1)
    # mmpretrain's own, as the default scope is.
    config.val_cfg = dict(type='RetrievalValLoop')
    config.val_evaluator = [
        dict(type='mmpretrain.Accuracy'),
        dict(type='DumpResults', out_file_path='answers.pkl'),
    ]
    config.test_evaluator = dict(metrics=dict(type='Accuracy'))
    config.custom_hooks = [
        dict(type='EMAHook'),
        dict(type='PreciseBNHook', _scope_='mmpretrain'),
    ]
    preflight(config)
    # mmpretrain's, without its name, is not found from outside.
    config.default_scope = 'mmengine'
    with pytest.raises(KeyError, match="val_cfg 'RetrievalValLoop'"):
        preflight(config)


def test_a_sampler_without_a_needed_option(config):
    del config.train_dataloader.sampler['num_samples']
    with pytest.raises(TypeError, match=r"missing a required .*'num_sample"):
        preflight(config)


@pytest.mark.parametrize(
    'sampler',
    [
        dict(type='DefaultSampler', shuffle=True),
        dict(type='RepeatAugSampler', num_repeats=2),
        dict(type='mmpretrain.RepeatAugSampler'),
        dict(type='RepeatAugSampler', _scope_='mmpretrain'),
        dict(type=RandomSubsetSampler, num_samples=2),
        dict(type='RandomSubsetSampler', num_samples=2, seed=1),
    ],
)
def test_samplers_of_the_engine_and_of_mmpretrain(config, sampler):
    config.train_dataloader.sampler = sampler
    preflight(config)
    # It was looked at, not passed over.
    config.train_dataloader.sampler = dict(sampler, typo=1)
    with pytest.raises(TypeError, match='typo'):
        preflight(config)


def test_the_model_is_built(config):
    config.model.student.head.num_classes = 4
    with pytest.raises(ValueError, match=r'teacher has 3 classes.* has 4'):
        preflight(config)


def test_models_that_write_into_their_config(config):
    @MODELS.register_module(name='Writer', force=True)
    class Writer(torch.nn.Module):
        def __init__(self, options):
            super().__init__()
            options.pop('once')

    config.model = dict(type='Writer', options=dict(once=1))
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    preflight(config)
    preflight(config)
    assert config.model.options.once == 1


@pytest.mark.parametrize('content', [b'', b'no checkpoint'])
def test_a_damaged_checkpoint_to_go_on_from(config, tmp_path, content):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(content)
    config.load_from = str(path)
    with pytest.raises(ValueError, match=r'epoch_1\.pth'):
        preflight(config)
    torch.save(dict(state_dict={}), path)
    preflight(config)


@DATASETS.register_module()
class NoImages(list):
    """An empty data set."""


def test_an_empty_training_set(config, tmp_path):
    (tmp_path / 'images').mkdir()
    config.train_dataloader.dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path / 'images'),
        with_label=False,
        pipeline=[],
    )
    with pytest.raises(ValueError, match='the training set: Found 0 files'):
        preflight(config)
    config.train_dataloader.dataset = dict(type='NoImages')
    with pytest.raises(ValueError, match='the training set is empty'):
        preflight(config)


def test_hooks_look_at_the_run(config, tmp_path):
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    config.custom_hooks = [dict(type='ReseedHook'), mosaic_hook()]
    before = config.pretty_text
    preflight(config)
    assert config.pretty_text == before
    # The hook itself, then the hook on model, images and checkpoint.
    config.custom_hooks[1].local_wieght = 1.0
    match = r"custom_hooks\.1: Mosaic.* no option 'local_wieght'; nearest: loc"
    with pytest.raises(ValueError, match=match):
        preflight(config)
    config.custom_hooks[1] = mosaic_hook(local_weight=-1.0)
    with pytest.raises(ValueError, match=r'local_weight must be .* got -1\.0'):
        preflight(config)
    config.custom_hooks[1] = mosaic_hook()
    config.train_dataloader.update(batch_size=4, drop_last=True)
    with pytest.raises(ValueError, match=r'set of 2 .* than a batch of 4'):
        preflight(config)
    config.train_dataloader.batch_size = 2
    config.load_from = str(tmp_path / 'epoch_1.pth')
    torch.save(dict(state_dict={}), config.load_from)
    preflight(config)
    config.resume = True
    with pytest.raises(ValueError, match=r"no state.*missing_state='restart'"):
        preflight(config)


def test_a_checkpoint_of_other_shapes(config, tmp_path):
    """The engine would go on without what does not fit."""
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    state = MODELS.build(copy.deepcopy(config.model)).state_dict()
    config.load_from = str(tmp_path / 'epoch_1.pth')
    config.resume = True
    torch.save(dict(state_dict=state), config.load_from)
    preflight(config)
    key, value = next(iter(state.items()))
    state[key] = torch.cat([value, value])
    torch.save(dict(state_dict=state), config.load_from)
    with pytest.raises(
        ValueError, match=rf'go on from .*epoch_1\.pth: (?s:.*){key}: copying'
    ):
        preflight(config)
    # Weights to start from are another matter.
    config.resume = False
    preflight(config)


@pytest.mark.parametrize('resume', [False, True])
def test_a_checkpoint_of_another_model(config, tmp_path, resume):
    """The engine would go on with none of its weights, or with some."""
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    config.model = dict(
        type='DML', students=students(2, 3), data_preprocessor=PREPROCESSOR
    )
    config.load_from = str(tmp_path / 'epoch_1.pth')
    config.resume = resume
    state = MODELS.build(copy.deepcopy(config.model)).state_dict()
    state.pop('students.a.backbone.bn1.num_batches_tracked')
    torch.save(dict(state_dict=state), config.load_from)
    preflight(config)

    def fails(state, match):
        torch.save(dict(state_dict=state), config.load_from)
        with pytest.raises(ValueError, match=match):
            preflight(config)

    others = {key.replace('.b.', '.c.'): state[key] for key in state}
    fewer = {key: state[key] for key in state if '.b.' not in key}
    more = {**state, 'students.c.head.fc.bias': torch.zeros(3)}
    if resume:
        fails(others, r'missing: students\.b\..*, \.{3}; .*: students\.c\.')
        fails(fewer, r'another model \(\d+ missing: students\.b\.')
        fails(more, r'\(1 unexpected: students\.c\.head\.fc\.bias\)')
    else:
        for some in (others, fewer, more):
            torch.save(dict(state_dict=some), config.load_from)
            preflight(config)
    none = {key.removeprefix('students.'): state[key] for key in state}
    what = 'go on from' if resume else r'none of .* called .students\.a\.'
    fails(none, what)


def test_loops_of_several_students(config, monkeypatch):
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    config.test_cfg = dict(type='StudentsTestLoop')
    with pytest.raises(ValueError, match=r'but got SingleTeacherDistill: set'):
        preflight(config)
    config.test_cfg = None
    config.model = dict(
        type='DML', students=students(2, 3), data_preprocessor=PREPROCESSOR
    )
    said = []
    monkeypatch.setattr(
        'mmkd_plugin.engine.preflight.print_log',
        lambda text, *_, **__: said.append(text),
    )
    text = 'of the students a, b only a is validated'
    for loop, warned in (
        (None, False),
        (dict(type='StudentsValLoop'), False),
        (dict(), True),
        (dict(type='ValLoop'), True),
    ):
        said.clear()
        config.val_cfg = loop
        preflight(config)
        assert (text in ''.join(said)) is warned, loop


@pytest.mark.parametrize('several', [False, True])
def test_views(config, several):
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    if several:
        config.model = dict(type='DML', students=students(2, 3))
    config.model.data_preprocessor = dict(VIEWS, views=3)
    match = 'views=3 .* has ' + ('2 students' if several else '1 student$')
    with pytest.raises(ValueError, match=match):
        preflight(config)
    for views in (1, 2) if several else (1,):
        config.model.data_preprocessor.views = views
        preflight(config)


def test_a_teacher_alone(config):
    """Configs of classifiers pass, too."""
    config.model = classifier(data_preprocessor=PREPROCESSOR)
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    preflight(config)
    # The same one is looked at as closely as a distillation.
    config.model.head.in_channels = 'many'
    with pytest.raises(TypeError):
        preflight(config)


@pytest.mark.parametrize(
    ('error', 'text'),
    [
        (ValueError('gamma is 2'), 'error: gamma is 2'),
        (KeyError("no 'x'\nat all"), "error: no 'x'\nat all"),
    ],
)
def test_fail(error, text, monkeypatch):
    monkeypatch.delenv('LOCAL_RANK', raising=False)
    monkeypatch.delenv('SLURM_LOCALID', raising=False)
    slept = []
    monkeypatch.setattr('time.sleep', slept.append)
    with pytest.raises(SystemExit) as exit_:
        fail(error)
    assert exit_.value.code == text
    assert not slept
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit) as exit_:
        fail(error)
    # One rank says it for all, and ends first.
    assert exit_.value.code == 1
    assert slept


def test_fail_where_a_loss_broke(monkeypatch):
    """It may have been in this process alone."""
    monkeypatch.setattr('time.sleep', lambda _: pytest.fail('it waits'))
    monkeypatch.delenv('SLURM_LOCALID', raising=False)
    for variable in ('LOCAL_RANK', 'SLURM_LOCALID'):
        for rank in '013':
            monkeypatch.setenv(variable, rank)
            with pytest.raises(SystemExit) as exit_:
                fail(FloatingPointError('the loss became NaN'))
            assert exit_.value.code == 'error: the loss became NaN'


@pytest.mark.parametrize(
    ('changes', 'error', 'match'),
    [
        (
            dict(type='DefaultSamplr'),
            KeyError,
            'no sampler .*DefaultSamplr.*nearest: DefaultSampler',
        ),
        (dict(shufle=True), TypeError, 'DefaultSampler: .*shufle'),
    ],
)
def test_wrong_samplers_of_the_discriminator(
    config, tmp_path, monkeypatch, changes, error, match
):
    folder = tmp_path / 'here'
    folder.mkdir()
    monkeypatch.chdir(folder)
    config.work_dir = 'run'
    config.train_dataloader.sampler = dict(type='DefaultSampler')
    sampler = dict(type='DefaultSampler')
    config.custom_hooks = [
        mosaic_hook(
            real_dataloader=dict(
                batch_size=2,
                dataset=config.train_dataloader.dataset,
                sampler=sampler,
            )
        )
    ]
    preflight(config)
    config.custom_hooks[0].real_dataloader.sampler.update(changes)
    with pytest.raises(error, match=match):
        preflight(config)
    assert not list(folder.iterdir())


def test_nothing_is_written(config, tmp_path, monkeypatch):
    folder = tmp_path / 'here'
    folder.mkdir()
    monkeypatch.chdir(folder)
    np.random.seed(0)
    preflight(config)
    assert not list(folder.iterdir())

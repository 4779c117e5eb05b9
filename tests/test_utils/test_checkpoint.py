"""Reading checkpoints of unknown origin, and loading them strictly."""

import argparse
import logging
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from mmkd_plugin.utils.checkpoint import (
    load_strict,
    load_weights,
    read_checkpoint,
)


class Toy(BaseModel):
    """The smallest model that mmengine's runner trains."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, inputs, mode='tensor'):
        out = self.linear(inputs)
        return dict(loss=out.sum()) if mode == 'loss' else out


class ToyData(torch.utils.data.Dataset):
    metainfo = dict(classes=['a', 'b'])

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.ones(2) * index)


def small_net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


def write(path, content, **kwargs):
    torch.save(content, path, **kwargs)
    return str(path)


class Malicious:
    """Writes a file as soon as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


class TestLoadWeights:
    def test_training_checkpoint_of_mmengine(self, tmp_path):
        """History, param schedulers and numpy scalars are in there."""
        # The runner would leave its scope to the tests that follow.
        with DefaultScope.overwrite_default_scope('mmengine'):
            runner = Runner(
                model=Toy(),
                work_dir=str(tmp_path),
                train_dataloader=dict(
                    dataset=ToyData(),
                    batch_size=2,
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    collate_fn=dict(type='default_collate'),
                ),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
                param_scheduler=dict(type='MultiStepLR', milestones=[1]),
                train_cfg=dict(by_epoch=True, max_epochs=1),
                custom_hooks=[dict(type='EMAHook', momentum=0.5)],
                default_scope='mmengine',
                experiment_name='test_load_weights',
            )
            runner.train()
        path = str(tmp_path / 'epoch_1.pth')
        # This is why a plain `weights_only=True` does not do.
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        assert 'mmengine.logging.history_buffer.HistoryBuffer' in unsafe
        assert 'builtins.getattr' in unsafe

        weights = load_weights(path)
        raw = torch.load(path, weights_only=False)
        assert list(weights) == ['linear.weight', 'linear.bias']
        for key, value in raw['state_dict'].items():
            assert torch.equal(weights[key], value)
        # EMAHook has put the average, not the trained weights, there.
        trained = runner.model.linear.bias
        assert not torch.equal(weights['linear.bias'], trained)
        assert read_checkpoint(path)['meta']['dataset_meta'] == dict(
            classes=['a', 'b']
        )

    @pytest.mark.parametrize('legacy', [False, True])
    @pytest.mark.parametrize('key', [None, 'state_dict', 'model'])
    def test_layouts(self, tmp_path, key, legacy):
        weights = OrderedDict(a=torch.arange(3.0), b=torch.tensor(7))
        content = weights if key is None else {key: weights, 'epoch': 3}
        path = write(
            tmp_path / 'x.pth',
            content,
            _use_new_zipfile_serialization=not legacy,
        )
        loaded = load_weights(path)
        assert list(loaded) == ['a', 'b']
        assert loaded['a'].tolist() == [0, 1, 2]
        assert loaded['b'].item() == 7

    def test_arguments_and_numpy_beside_the_weights(self, tmp_path):
        """As the training scripts of torchvision and timm leave them."""
        content = dict(
            model=dict(a=torch.ones(2)),
            args=argparse.Namespace(lr=0.1),
            best_acc=np.float64(71.5),
            curve=np.arange(3),
        )
        path = write(tmp_path / 'x.pth', content)
        assert load_weights(path)['a'].tolist() == [1, 1]

    def test_old_format_with_an_accuracy(self, tmp_path):
        """As RepDistiller's training leaves it, with an older PyTorch."""
        path = write(
            tmp_path / 'x.pth',
            dict(model=dict(a=torch.ones(2)), best_acc=np.float64(71.5)),
            _use_new_zipfile_serialization=False,
        )
        assert load_weights(path)['a'].tolist() == [1, 1]

    def test_keeps_version_metadata(self, tmp_path):
        path = write(tmp_path / 'x.pth', small_net().state_dict())
        assert load_weights(path)._metadata['1']['version'] == 2

    def test_does_not_run_code(self, tmp_path):
        trace = tmp_path / 'trace'
        content = dict(state_dict={}, extra=Malicious(str(trace)))
        path = write(tmp_path / 'x.pth', content)
        with pytest.raises(ValueError, match='could run code') as info:
            load_weights(path)
        assert 'mkdir' in str(info.value)
        assert path in str(info.value)
        assert not trace.exists()

    def test_getattr_has_no_effect(self, tmp_path):
        """``getattr`` is read, as mmengine writes it, but never called."""

        class Getattr:
            def __reduce__(self):
                return getattr, (torch.Tensor, 'no_such_attribute')

        content = dict(state_dict=dict(a=torch.ones(1)), extra=Getattr())
        path = write(tmp_path / 'x.pth', content)
        assert list(load_weights(path)) == ['a']

    def test_history_buffer_does_not_change_its_class(self, tmp_path):
        buffer = HistoryBuffer([1.0], [1])
        buffer._statistics_methods = dict(planted=1)
        content = dict(state_dict=dict(a=torch.ones(1)), hub=buffer)
        path = write(tmp_path / 'x.pth', content)
        load_weights(path)
        assert 'planted' not in HistoryBuffer._statistics_methods

    def test_allow_list_of_the_process_is_kept(self, tmp_path):
        """It is neither used nor changed."""
        path = write(
            tmp_path / 'x.pth',
            dict(state_dict=dict(a=torch.ones(1)), x=np.arange(2)),
        )
        mine = [np.ndarray, np.dtype, HistoryBuffer]
        with torch.serialization.safe_globals(mine):
            before = set(torch.serialization.get_safe_globals())
            load_weights(path)
            assert set(torch.serialization.get_safe_globals()) == before
            assert before.issuperset(mine)

    def test_missing_file(self, tmp_path):
        path = str(tmp_path / 'no.pth')
        with pytest.raises(FileNotFoundError, match=r'no checkpoint .*no\.p'):
            load_weights(path)

    def test_url(self):
        with pytest.raises(ValueError, match='Download it first'):
            load_weights('https://example.org/x.pth')

    def test_directory(self, tmp_path):
        with pytest.raises(ValueError, match='is a directory'):
            load_weights(str(tmp_path))

    def test_empty_file(self, tmp_path):
        path = tmp_path / 'x.pth'
        path.touch()
        with pytest.raises(ValueError, match=r'x\.pth is empty'):
            load_weights(str(path))

    @pytest.mark.parametrize('legacy', [False, True])
    @pytest.mark.parametrize('share', [0.01, 0.3, 0.6, 0.99])
    def test_truncated(self, tmp_path, share, legacy):
        path = write(
            tmp_path / 'x.pth',
            dict(state_dict=nn.Linear(50, 50).state_dict()),
            _use_new_zipfile_serialization=not legacy,
        )
        data = (tmp_path / 'x.pth').read_bytes()
        (tmp_path / 'x.pth').write_bytes(data[: int(share * len(data))])
        with pytest.raises(ValueError, match=r'x\.pth is truncated or not'):
            load_weights(path)

    @pytest.mark.parametrize(
        'data',
        [
            b'hello, this is a text',
            b'\x89PNG\r\n\x1a\n' + bytes(range(256)),
            b'\x80\x02',
            b'PK\x03\x04' + bytes(100),
            pickle.dumps(dict(a=1)),
        ],
    )
    def test_not_a_checkpoint(self, tmp_path, data):
        path = tmp_path / 'x.pth'
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r'x\.pth') as info:
            load_weights(str(path))
        assert '\n' not in str(info.value)

    def test_pickled_module(self, tmp_path):
        path = write(tmp_path / 'x.pth', nn.Linear(1, 1))
        with pytest.raises(ValueError, match=r'`torch\.nn\.modules\.linear'):
            load_weights(path)

    @pytest.mark.parametrize(
        ('content', 'message'),
        [
            ([torch.ones(1)], 'holds a list'),
            (torch.ones(1), 'holds a Tensor'),
            ({}, 'holds no weights'),
            (dict(state_dict={}), 'holds no weights'),
            (dict(epoch=3, lr=0.1), 'its keys are epoch, lr'),
            (dict(state_dict=dict(a=torch.ones(1), b=3)), 'not tensors: b'),
            (dict(model=dict(a=np.ones(1))), 'not tensors: a'),
        ],
    )
    def test_no_weights_inside(self, tmp_path, content, message):
        path = write(tmp_path / 'x.pth', content)
        with pytest.raises(ValueError, match=message) as info:
            load_weights(path)
        assert path in str(info.value)


class TestLoadStrict:
    def test_values_and_log(self, caplog, monkeypatch):
        source, target = small_net(), small_net()
        lines = []
        monkeypatch.setattr(
            'mmkd_plugin.utils.checkpoint.print_log',
            lambda text, logger, level=logging.INFO: lines.append(text),
        )
        load_strict(target, source.state_dict(), 'teacher', 'x.pth')
        for key, value in target.state_dict().items():
            assert torch.equal(value, source.state_dict()[key])
        # 6 + 3 and 4 * 3 + 1 values.
        assert lines == ['teacher: loaded 7 tensors (22 values) from x.pth']

        load_strict(
            nn.Linear(1000, 1234, bias=False),
            dict(weight=torch.zeros(1234, 1000)),
            'student',
        )
        assert lines[1] == 'student: loaded 1 tensors (1.2 M values)'

    @pytest.mark.parametrize('plain', [False, True])
    def test_num_batches_tracked_may_be_missing(self, plain):
        weights = small_net().state_dict()
        del weights['1.num_batches_tracked']
        target = small_net()
        load_strict(target, dict(weights) if plain else weights, 'net')
        assert torch.equal(target[0].weight, weights['0.weight'])

    def test_all_problems_are_listed(self):
        weights = small_net().state_dict()
        del weights['1.running_mean'], weights['0.bias']
        weights['head.fc'] = torch.zeros(1)
        weights['0.weight'] = torch.zeros(5, 2)
        target = small_net()
        before = {k: v.clone() for k, v in target.state_dict().items()}
        with pytest.raises(ValueError) as info:
            load_strict(target, weights, 'student', 'x.pth')
        lines = str(info.value).splitlines()
        assert lines == [
            'student: the weights from x.pth do not fit the model.',
            '2 missing: 0.bias, 1.running_mean',
            '1 unexpected: head.fc',
            '1 of another shape: 0.weight: checkpoint (5, 2) vs model (3, 2)',
        ]
        for key, value in target.state_dict().items():
            assert torch.equal(value, before[key])

    def test_long_lists_are_cut(self):
        weights = {f'x{i}.w': torch.zeros(1) for i in range(11)}
        with pytest.raises(ValueError) as info:
            load_strict(small_net(), weights, 'student')
        text = str(info.value)
        assert '11 unexpected: x0.w' in text
        assert 'x7.w, ... and 3 more' in text
        assert 'x8.w' not in text
        assert 'None of its 11 keys match' in text
        assert 'belongs to another architecture' in text

    @pytest.mark.parametrize('prefix', ['module.', 'student.', 'a.b.'])
    def test_hint_at_a_prefix_too_many(self, prefix):
        weights = {prefix + k: v for k, v in small_net().state_dict().items()}
        weights['distiller.connectors.w'] = torch.zeros(1)
        with pytest.raises(
            ValueError, match=f'without the prefix `{prefix}` 7 keys match'
        ) as info:
            load_strict(small_net(), weights, 'teacher')
        assert 'another architecture' not in str(info.value)
        assert ('export_student' in str(info.value)) == (prefix == 'student.')

    def test_hint_at_a_prefix_too_few(self):
        target = nn.ModuleDict(dict(backbone=small_net()))
        with pytest.raises(
            ValueError, match=r'with the prefix `backbone\.` put before 7 keys'
        ):
            load_strict(target, small_net().state_dict(), 'teacher')

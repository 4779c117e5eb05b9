import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader, SequentialSampler

from mmkd_plugin.datasets import ArrayImages, array_collate
from mmkd_plugin.datasets.selection import select_by_entropy
from mmkd_plugin.engine.hooks import SelectionReportHook

CLASSES = ['zero', 'one', 'two']
CHOSEN = [2, 3]


class ToyModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs, sample_idx=None, mode='tensor', **kwargs):
        loss = self.scale * inputs.float().mean()
        return dict(loss=loss) if mode == 'loss' else []


def with_selection(sampler, **kwargs):
    """Images 0 and 1 are too uncertain, 2 and 3 chosen, 4 to 7 certain."""
    uncertainty = np.array([2.0, 1.5, 0.5, 0.4, 0.1, 1e-3, 1e-9, 0.0])
    sampler.scores = SimpleNamespace(
        uncertainty=uncertainty,
        entropy=2 * uncertainty,
        predicted=np.array([0, 1, 2, 2, 0, 1, 0, 1]),
        num_classes=3,
    )
    sampler.selection = SimpleNamespace(
        **{
            **dict(
                indices=np.array(CHOSEN),
                candidates=uncertainty <= 0.5,
                delta=float(np.exp(-0.5)),
                gamma=0.75,
                threshold='quantile',
                order='informative',
                fallback=False,
            ),
            **kwargs,
        }
    )
    return sampler


def build(tmp_path, sampler, hook=None, **kwargs):
    # Each image has a colour of its own, also after a swap of channels.
    images = np.zeros((8, 6, 6, 3), dtype=np.uint8)
    images[..., 0] = np.arange(8).reshape(8, 1, 1) * 10 + 100
    dataset = ArrayImages(images, labels=[0] * 8, classes=CLASSES)
    return Runner(
        model=kwargs.pop('model', None) or ToyModel(),
        work_dir=str(tmp_path),
        experiment_name=tmp_path.name,
        train_dataloader=DataLoader(
            dataset, 4, sampler=sampler(dataset), collate_fn=array_collate
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[hook or dict(type='SelectionReportHook')],
        visualizer=dict(
            type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]
        ),
        **kwargs,
    )


def selected(dataset):
    return with_selection(SequentialSampler(dataset))


def test_registered():
    assert HOOKS.get('SelectionReportHook') is SelectionReportHook


def test_numbers(tmp_path):
    build(tmp_path, selected).train()
    numbers = json.loads((tmp_path / 'selection/selection.json').read_text())
    means = {
        name: numbers.pop(name) for name in ('all', 'candidates', 'chosen')
    }
    assert [means[n]['count'] for n in means] == [8, 6, 2]
    chosen = means['chosen']
    assert chosen['mean_confidence'] == pytest.approx(
        (np.exp(-0.5) + np.exp(-0.4)) / 2
    )
    assert chosen['mean_entropy'] == pytest.approx(0.9)
    assert numbers == dict(
        threshold='quantile',
        order='informative',
        gamma=0.75,
        delta=float(np.exp(-0.5)),
        fallback=False,
        classes=[],
        chosen_per_class=[0, 0, 2],
    )


def test_pictures_in_the_work_dir_and_in_the_visualizer(tmp_path):
    build(tmp_path, selected).train()
    shown = list(tmp_path.glob('*/vis_data/vis_image/*.png'))
    assert sorted(path.name for path in shown) == [
        'selection_confidence_0.png',
        'selection_montage_0.png',
    ]
    for path in shown:
        name = path.name[len('selection_') : -len('_0.png')]
        own = Image.open(tmp_path / 'selection' / f'{name}.png')
        assert np.array_equal(
            np.array(own.convert('RGB')), np.array(Image.open(path))
        )
    (log,) = tmp_path.glob('*/*.log')
    wanted = f'2 of 8 images are selected; see {tmp_path / "selection"}\n'
    assert log.read_text().count(wanted) == 1


def montage_rows(monkeypatch, runner):
    module = 'mmkd_plugin.engine.hooks.selection_report_hook'
    rows = []
    monkeypatch.setattr(
        f'{module}.montage_figure', lambda r, columns: rows.extend(r)
    )
    monkeypatch.setattr(
        f'{module}.render', lambda figure: np.zeros((2, 2, 3), np.uint8)
    )
    runner.train()
    return [
        (
            title,
            [(int(p.image[0, 0].max()) - 100) // 10 for p in picked],
            picked,
        )
        for title, picked in rows
    ]


def test_montage(tmp_path, monkeypatch):
    chosen, uncertain, certain = montage_rows(
        monkeypatch, build(tmp_path, selected)
    )
    assert chosen[:2] == ('chosen (2 images)', [2, 3])
    assert uncertain[:2] == ('rejected: too uncertain (2 images)', [0, 1])
    assert certain[:2] == (
        'rejected: too certain to be informative (4 images)',
        [4, 5, 6, 7],
    )
    assert [p.label for p in certain[2]] == ['0', '1', '0', '1']
    assert certain[2][1].uncertainty == 1e-3


def test_montage_draws_the_same_images_each_time(tmp_path, monkeypatch):
    hook = dict(type='SelectionReportHook', num_images=2)
    first, second = (
        montage_rows(
            monkeypatch, build(tmp_path / run, selected, hook=dict(hook))
        )
        for run in ('a', 'b')
    )
    assert [row[1] for row in first] == [row[1] for row in second]
    assert len(first[2][1]) == 2


def test_bgr_images_are_shown_in_rgb(tmp_path, monkeypatch):
    model = ToyModel()
    model.data_preprocessor.to_rgb = True
    rows = montage_rows(monkeypatch, build(tmp_path, selected, model=model))
    np.testing.assert_array_equal(rows[0][2][0].image[0, 0], [0, 0, 120])


def test_classes_come_from_the_validation_set(tmp_path):
    images = np.zeros((2, 6, 6, 3), dtype=np.uint8)
    runner = build(
        tmp_path,
        selected,
        val_dataloader=DataLoader(
            ArrayImages(images, [0, 1], CLASSES), collate_fn=array_collate
        ),
        val_cfg=dict(),
        val_evaluator=dict(type='Accuracy'),
        default_scope='mmpretrain',
    )
    runner.val_loop.run = lambda: {}
    runner.train()
    numbers = json.loads((tmp_path / 'selection/selection.json').read_text())
    assert numbers['classes'] == CLASSES


@pytest.mark.parametrize(
    'options',
    [
        dict(order='random'),
        dict(order='confident'),
        dict(fallback=True, candidates=np.zeros(8, dtype=bool)),
        dict(delta=1.0),
        dict(indices=np.zeros(0, dtype=np.int64)),
    ],
)
def test_other_selections(tmp_path, options):
    build(
        tmp_path, lambda d: with_selection(SequentialSampler(d), **options)
    ).train()
    numbers = json.loads((tmp_path / 'selection/selection.json').read_text())
    assert numbers['chosen']['count'] == len(options.get('indices', CHOSEN))


def by_entropy(dataset):
    """The two most uncertain of :func:`with_selection` are chosen."""
    sampler = with_selection(SequentialSampler(dataset))
    sampler.selection = select_by_entropy(sampler.scores, 2)
    return sampler


def test_a_choice_by_entropy(tmp_path):
    # Of an earlier run with another sampler
    folder = tmp_path / 'selection'
    folder.mkdir()
    (folder / 'confidence.png').write_bytes(b'old')
    build(tmp_path, by_entropy).train()
    assert sorted(path.name for path in folder.iterdir()) == [
        'montage.png',
        'selection.json',
    ]
    (shown,) = tmp_path.glob('*/vis_data/vis_image/*.png')
    assert shown.name == 'selection_montage_0.png'
    numbers = json.loads((folder / 'selection.json').read_text())
    assert numbers.pop('all')['count'] == 8
    assert numbers.pop('chosen') == dict(
        count=2,
        mean_confidence=pytest.approx((np.exp(-2) + np.exp(-1.5)) / 2),
        mean_entropy=pytest.approx(3.5),
    )
    assert numbers == dict(
        order='entropy',
        min_entropy=3.0,
        classes=[],
        chosen_per_class=[1, 1, 0],
    )


def test_montage_of_a_choice_by_entropy(tmp_path, monkeypatch):
    rows = montage_rows(monkeypatch, build(tmp_path, by_entropy))
    assert [row[:2] for row in rows] == [
        ('chosen (2 images)', [0, 1]),
        ('rejected: less entropy (6 images)', [2, 3, 4, 5, 6, 7]),
    ]


def test_other_samplers_are_left_alone(tmp_path):
    build(tmp_path, SequentialSampler).train()
    assert not (tmp_path / 'selection').exists()


def test_bad_options():
    with pytest.raises(ValueError, match=r'num_images must be .* got 0'):
        SelectionReportHook(num_images=0)
    with pytest.raises(ValueError, match=r'seed must be .* got -1'):
        SelectionReportHook(seed=-1)

"""Tests of reading an explanation's config."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from toy_courses import MODEL, toy_weights, write_course

from mmkd_plugin.explain import Experiment

SCRIPT = 'python tools/explain.py c.py'


def config(**changes):
    options = dict(
        model=MODEL,
        protocol=dict(layer='backbone.layer1', grid=[4, 4]),
        image_sets=dict(
            digits=dict(type='DemoDigits', split='val'),
        ),
        images='digits',
    )
    return Config(dict(explain={**options, **changes}))


def folder_of_images(path, count=3):
    rng = np.random.default_rng(0)
    for index in range(count):
        mask = np.zeros((8, 8), dtype=np.uint8)
        mask[:, : index + 1] = 1
        for kind, array in dict(
            images=rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), masks=mask
        ).items():
            (path / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path / kind / f'{index}.png')
    return path


PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadForeground'),
    dict(type='Resize', scale=(8, 8)),
    dict(type='PackInputs', algorithm_keys=('gt_seg_map',)),
]


def test_a_folder_of_images_and_masks(tmp_path):
    folder = folder_of_images(tmp_path / 'mine')
    options = dict(images=str(folder), folder_pipeline=PIPELINE)
    found = Experiment(config(**options)).load_images()
    assert found.images.shape == (3, 3, 8, 8)
    assert found.masks.sum((1, 2)).tolist() == [8, 16, 24]
    drawn = Experiment(config(**options, num_images=2)).load_images()
    assert len(drawn.names) == 2
    with pytest.raises(ValueError, match='explain needs folder_pipeline'):
        Experiment(config(images=str(folder))).load_images()


def test_end_to_end(tmp_path):
    folder = folder_of_images(tmp_path / 'mine')
    torch.save(toy_weights(1), tmp_path / 'teacher.pth')
    run = write_course(tmp_path / 's', {0: toy_weights(0), 3: toy_weights(2)})
    experiment = Experiment(
        config(
            images=str(folder),
            folder_pipeline=PIPELINE,
            teacher_ckpt=str(tmp_path / 'teacher.pth'),
            student=str(run),
        )
    )
    lines = []
    found = experiment.explain(
        experiment.read_runs(SCRIPT),
        experiment.load_images(),
        progress=lines.append,
    )
    assert list(found.networks) == ['teacher', 'student']
    assert found.names == ['0.png', '1.png', '2.png']
    assert found.image_set == str(folder)
    assert lines == [
        'teacher',
        'student, epoch 0 (1 of 2)',
        'student, epoch 3 (2 of 2)',
    ]


def test_all_that_is_missing_and_how_it_is_made(tmp_path):
    runs = {n: str(tmp_path / n) for n in ('t', 's', 'b')}
    experiment = Experiment(
        config(
            teacher_ckpt=f'{runs["t"]}/epoch_1.pth',
            student=[runs['s']],
            baseline=runs['b'],
            trainings=[
                dict(config='t.py', work_dir=runs['t'], makes='epoch_1.pth'),
                dict(config='s.py', work_dir=runs['s'], makes='x'),
            ],
        )
    )
    with pytest.raises(ValueError) as caught:
        experiment.read_runs(SCRIPT)
    text = str(caught.value)
    assert text.startswith('3 of the inputs are missing')
    assert f'python tools/train.py t.py --work-dir {runs["t"]}' in text
    assert f'python tools/train.py s.py --work-dir {runs["s"]}' in text
    assert f'{runs["b"]}: there is no such work directory' in text
    assert f'{SCRIPT} --train' in text
    assert [x['config'] for x in experiment.unfinished()] == ['t.py', 's.py']
    # Given on the command line: nothing to train for it.
    experiment.teacher_ckpt = 'other.pth'
    assert [x['config'] for x in experiment.unfinished()] == ['s.py']
    experiment.teacher_ckpt = f'{runs["t"]}/epoch_1.pth'
    (tmp_path / 't').mkdir()
    (tmp_path / 't' / 'epoch_1.pth').touch()
    assert [x['config'] for x in experiment.unfinished()] == ['s.py']


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(studnet='x'), "no 'studnet'; nearest: student"),
        (dict(model=None), 'needs model'),
        (dict(protocol=None), 'needs its protocol'),
        (dict(protocol=dict(layer='x', lam=6)), "protocol has no 'lam'"),
        (dict(memory=0), 'explain.memory must be'),
        (dict(trainings=[dict(config='x')]), 'must have config, work_dir'),
    ],
)
def test_wrong_options(changes, message):
    with pytest.raises(ValueError, match=message):
        Experiment(config(**changes))


def test_config_without_explain():
    with pytest.raises(ValueError, match='has no `explain`'):
        Experiment(Config(dict(model=MODEL)))


def test_unknown_images():
    experiment = Experiment(config(images='nowhere'))
    with pytest.raises(
        ValueError, match=r"one of explain.image_sets \(digits\).*'nowhere'"
    ):
        experiment.load_images()
    with pytest.raises(ValueError, match=r'image 0: .*no gt_seg_map'):
        Experiment(config()).load_images()


def test_missing_images_are_told_with_the_runs(tmp_path):
    folder = folder_of_images(tmp_path / 'mine')
    sets = {
        name: dict(type='FolderWithMasks', data_root=str(root))
        for name, root in dict(here=folder, there=tmp_path / 'none').items()
    }
    inputs = [
        dict(key=f'explain.image_sets.{name}.data_root', make=f'get {name}')
        for name in sets
    ]
    given = config(image_sets=sets, images='there', student=['none'])
    given.required_inputs = inputs
    with pytest.raises(ValueError) as caught:
        Experiment(given).read_runs(SCRIPT)
    text = str(caught.value)
    assert text.startswith('2 of the inputs are missing')
    assert 'make it with: get there' in text and 'get here' not in text
    given.explain.images = 'here'
    assert Experiment(given).missing_images() == []

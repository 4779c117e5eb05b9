"""End-to-end tests of tools/explain.py, as a user runs it."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from browser import dumped_dom, find_browser, screenshot
from test_train_end_to_end import DEMO, ROOT, call, load_tool

from mmkd_plugin.explain.pictures import colour_bar

# The embedded experiment with less of everything.
SMALLER = """
_base_ = [{base!r}]
train_dataloader = dict(dataset=dict(num_images=128))
train_cfg = dict(max_epochs=2{validation})
{more}
"""
VALIDATION = ', val_interval=2'


def run_tool(*args, cwd=ROOT):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'explain.py'), *map(str, args)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope='module')
def tool():
    return load_tool('explain')


@pytest.fixture(scope='module')
def experiment(tmp_path_factory, tool):
    """A folder with the demo's configs made smaller, and its runs."""
    folder = tmp_path_factory.mktemp('kp')
    runs = {
        what: f'{folder}/{what}'
        for what in ('teacher', 'baseline', 'student', 'classifier')
    }
    start = f'{runs["baseline"]}/snapshots/epoch_0.pth'
    end = f'{runs["student"]}/snapshots/epoch_2.pth'
    more = dict(
        teacher='',
        baseline='',
        student=f'model = dict(student_ckpt={start!r}, '
        f'teacher_ckpt={runs["teacher"] + "/epoch_2.pth"!r})',
        classifier=f'model = dict(checkpoint={end!r})',
    )
    trainings = []
    makes = dict(teacher='epoch_2.pth')
    for what, extra in more.items():
        base = str(DEMO / f'kp_{what}_scenes.py')
        path = folder / f'{what}.py'
        validation = '' if what == 'student' else VALIDATION
        path.write_text(
            SMALLER.format(base=base, validation=validation, more=extra)
        )
        trainings.append(
            dict(
                config=str(path),
                work_dir=runs[what],
                makes=makes.get(what, 'snapshots/epoch_2.pth'),
            )
        )
    config = folder / 'kp.py'
    config.write_text(
        f'_base_ = [{str(DEMO / "kp_scenes.py")!r}]\n'
        f'explain = dict(teacher_ckpt={runs["teacher"] + "/epoch_2.pth"!r},\n'
        f'    student=[{runs["student"]!r}, {runs["classifier"]!r}],\n'
        f'    baseline={runs["baseline"]!r}, num_images=6,\n'
        f'    trainings={trainings!r})\n'
    )
    with pytest.raises(SystemExit) as early:
        tool.main([str(config)])
    train = load_tool('train')
    # The last one is left to the tool.
    for item in trainings[:-1]:
        call(
            train, ['train.py', item['config'], '--work-dir', item['work_dir']]
        )
    done = run_tool(config, '--train', '--out', folder / 'out', cwd=folder)
    return folder, config, str(early.value), done


def test_without_runs_it_says_how_to_make_them(experiment):
    _, config, early, _ = experiment
    assert early.count('make it with: python tools/train.py') == 4
    assert f'tools/explain.py {config} --train' in early


def test_train_and_explain(experiment):
    folder, _, _, done = experiment
    assert done.returncode == 0, done.stderr[-3000:]
    # The others were there.
    assert done.stdout.count(' s\n--- ') == 0
    assert 'classifier.py -> ' in done.stdout
    found = json.loads((folder / 'out' / 'explanation.json').read_text())
    networks = found['networks']
    assert list(networks) == ['teacher', 'student', 'baseline']
    # Two epochs of features and two of the classifier.
    assert networks['student']['epochs'] == [0, 1, 2, 4]
    assert networks['baseline']['epochs'] == [0, 1, 2]
    # The same start, the features stay in the second phase.
    student, baseline = networks['student'], networks['baseline']
    for which in ('n_fg', 'n_bg', 'distances'):
        assert student[which][0] == baseline[which][0]
        assert student[which][2] == student[which][3]
    assert student['distances'][2] > student['distances'][1] > 0
    assert not any('start from the same' in n for n in found['notes'])
    for network in networks.values():
        assert 0 <= network['accuracy'] <= 100
    rows = list(csv.DictReader((folder / 'out' / 'per_image.csv').open()))
    assert len(rows) == found['num_counted'] == 6
    means = [float(row['student_n_fg']) for row in rows]
    assert sum(means) / 6 == pytest.approx(student['n_fg'][-1])
    # The terminal shows the same figures.
    line = next(x for x in done.stdout.splitlines() if x[:8] == 'student ')
    assert float(line.split()[2]) == pytest.approx(
        student['n_fg'][-1], abs=0.1
    )


def test_runs_and_images_from_the_command_line(experiment, tool):
    folder, config, _, done = experiment
    assert done.returncode == 0
    arguments = [
        config,
        *('--student', folder / 'student'),
        *('--baseline', folder / 'baseline'),
        *('--teacher', folder / 'teacher' / 'epoch_1.pth'),
        *('--images', 'val', '--num-images', 3, '--out', folder / 'again'),
    ]
    tool.main(list(map(str, arguments)))
    found = json.loads((folder / 'again' / 'explanation.json').read_text())
    assert found['image_set'] == 'val' and found['num_images'] == 3
    networks = found['networks']
    assert networks['student']['epochs'] == [0, 1, 2]
    # The accuracy that is known is that of another epoch's weights.
    assert networks['teacher']['accuracy'] is None
    first = json.loads((folder / 'out' / 'explanation.json').read_text())
    assert first['networks']['teacher']['accuracy'] is not None


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            ['--cfg-options', 'explain.protocol.layer=backbone.layer9'],
            "no module 'backbone.layer9'; nearest: backbone.layer",
        ),
        (
            ['--cfg-options', 'explain.protocol.constants.lam=-1'],
            'lam must be a finite number and > 0, but got -1',
        ),
        (
            ['--cfg-options', 'layer=backbone.layer2'],
            'only what is under `explain` is read',
        ),
        (['--examples', '-1'], '--examples must be'),
        (['--device', 'gpu'], '--device gpu: '),
    ],
)
def test_mistakes_are_told_first(experiment, tool, options, message, capsys):
    folder, config, _, _ = experiment
    with pytest.raises(SystemExit) as stopped:
        tool.main([str(config), *options, '--out', str(folder / 'wrong')])
    assert message in str(stopped.value)
    # Before any network is asked.
    assert 'epoch 0' not in capsys.readouterr().out
    assert not (folder / 'wrong').exists()


@pytest.mark.skipif(find_browser() is None, reason='no Chromium is installed')
def test_page_in_a_browser(experiment, tmp_path):
    folder, _, _, done = experiment
    assert done.returncode == 0
    page = folder / 'out' / 'index.html'
    found = json.loads((folder / 'out' / 'explanation.json').read_text())
    # The table comes after the hypotheses.
    _, dom = dumped_dom(page).split('Knowledge points</h2>')
    for name in ('teacher', 'student', 'baseline'):
        row = re.search(
            rf'<tr[^>]*>(?:(?!</tr>).)*{name}(?:(?!</tr>).)*</tr>', dom, re.S
        ).group()
        assert f'{found["networks"][name]["n_fg"][-1]:.1f}' in row
    # Six images, three maps for each, and the colour bar.
    assert dom.count('<img') == 6 * 4 + 1
    picture = screenshot(page, tmp_path / 'page.png', (1100, 2400))
    # Cells of the maps are painted in the colours of the bar, over grey.
    bar = colour_bar().reshape(-1, 3).astype(int)
    entropy = np.load(folder / 'out' / 'entropy.npz')['teacher']
    assert np.ptp(entropy) > 0.1
    shot = picture.reshape(-1, 3).astype(int)
    shot = shot[np.ptp(shot, axis=1) > 40]
    near = np.abs(shot[::20, None] - bar[None, ::8]).max(-1).min(1)
    assert (near < 50).sum() * 20 > 100_000

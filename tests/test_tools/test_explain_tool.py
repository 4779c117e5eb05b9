"""End-to-end tests of tools/explain.py, as a user runs it."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import dumped_dom, find_browser, screenshot

ROOT = Path(__file__).parents[2]
DEMO = ROOT / 'configs' / 'demo'
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
def experiment(tmp_path_factory):
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
    early = run_tool(config, cwd=folder)
    done = run_tool(config, '--train', '--out', folder / 'out', cwd=folder)
    return folder, config, early, done


def test_without_runs_it_says_how_to_make_them(experiment):
    _, config, early, _ = experiment
    assert early.returncode != 0
    assert 'Traceback' not in early.stderr
    assert early.stderr.count('make it with: python tools/train.py') == 4
    assert f'tools/explain.py {config} --train' in early.stderr


def test_train_and_explain(experiment):
    folder, _, _, done = experiment
    assert done.returncode == 0, done.stderr[-3000:]
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


def test_runs_and_images_from_the_command_line(experiment):
    folder, config, _, done = experiment
    assert done.returncode == 0
    again = run_tool(
        config,
        *('--student', folder / 'student'),
        *('--baseline', folder / 'baseline'),
        *('--teacher', folder / 'teacher' / 'epoch_1.pth'),
        *('--images', 'val', '--num-images', 3, '--out', folder / 'again'),
        cwd=folder,
    )
    assert again.returncode == 0, again.stderr[-3000:]
    found = json.loads((folder / 'again' / 'explanation.json').read_text())
    assert found['image_set'] == 'val' and found['num_images'] == 3
    assert found['networks']['student']['epochs'] == [0, 1, 2]


def test_mistakes_are_one_message(experiment):
    folder, config, _, _ = experiment
    failed = run_tool(
        config,
        *('--cfg-options', 'explain.protocol.layer=backbone.layer9'),
        cwd=folder,
    )
    assert failed.returncode != 0
    assert 'Traceback' not in failed.stderr
    assert "no module 'backbone.layer9'; nearest: backbone.layer" in (
        failed.stderr
    )


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
    picture = screenshot(page, tmp_path / 'page.png', (1100, 2400))
    # More than text and lines: the images and maps have many colours.
    assert len({tuple(x) for x in picture[::4, ::4].reshape(-1, 3)}) > 200

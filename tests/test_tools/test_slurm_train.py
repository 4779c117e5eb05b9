"""``tools/slurm_train.sh``, with a stand-in for ``srun``."""

import os
import shutil
import subprocess

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
TOOL = os.path.join(ROOT, 'tools', 'slurm_train.sh')
BASH = shutil.which('bash')

pytestmark = pytest.mark.skipif(BASH is None, reason='needs bash')


@pytest.fixture
def run(tmp_path):
    """Call the script where ``srun`` prints its arguments, one a line."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    srun = tools / 'srun'
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    (tmp_path / 'my config.py').touch()

    def call(*args, path=f'{tools}:{os.environ["PATH"]}', **settings):
        return subprocess.run(
            [BASH, TOOL, *args],
            cwd=tmp_path,
            env={'PATH': path, **settings},
            capture_output=True,
            text=True,
        )

    return call


def test_syntax():
    subprocess.run([BASH, '-n', TOOL], check=True)


def test_defaults(run):
    done = run('gpu', 'job', 'my config.py')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        '--partition=gpu',
        '--job-name=job',
        '--gres=gpu:8',
        '--ntasks=8',
        '--ntasks-per-node=8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        'python',
        '-u',
        os.path.join(ROOT, 'tools', 'train.py'),
        'my config.py',
        '--launcher=slurm',
    ]


def test_settings(run):
    done = run(
        'gpu',
        'job',
        'my config.py',
        'my dir',
        '--amp',
        '--cfg-options',
        'a=b c',
        GPUS='16',
        GPUS_PER_NODE='4',
        CPUS_PER_TASK='2',
        SRUN_ARGS='--quotatype=auto  --async',
        PYTHON='python3',
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2:6] == [
        '--gres=gpu:4',
        '--ntasks=16',
        '--ntasks-per-node=4',
        '--cpus-per-task=2',
    ]
    assert lines[7:10] == ['--quotatype=auto', '--async', 'python3']
    assert lines[12:] == [
        'my config.py',
        '--work-dir',
        'my dir',
        '--launcher=slurm',
        '--amp',
        '--cfg-options',
        'a=b c',
    ]
    # The work dir may be left out, and fewer GPUs than a machine has.
    done = run('gpu', 'job', 'my config.py', '--amp', GPUS='2')
    lines = done.stdout.splitlines()
    assert '--work-dir' not in lines
    assert lines[-2:] == ['--launcher=slurm', '--amp']
    assert lines[2:5] == ['--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2']


@pytest.mark.parametrize(
    ('args', 'settings', 'message'),
    [
        ([], {}, 'usage: [GPUS=8]'),
        (['gpu', 'job'], {}, 'PARTITION JOB_NAME CONFIG [WORK_DIR]'),
        (['gpu', 'job', 'no.py'], {}, "error: there is no config 'no.py'"),
        (
            ['gpu', 'job', 'my config.py'],
            dict(GPUS='many'),
            "error: GPUS must be a positive number, but got 'many'",
        ),
        (
            ['gpu', 'job', 'my config.py'],
            dict(CPUS_PER_TASK='0'),
            "error: CPUS_PER_TASK must be a positive number, but got '0'",
        ),
        (
            ['gpu', 'job', 'my config.py'],
            dict(GPUS='10', GPUS_PER_NODE='4'),
            'error: GPUS=10 is not a multiple of GPUS_PER_NODE=4',
        ),
    ],
)
def test_wrong_use(run, args, settings, message):
    done = run(*args, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert 'usage: ' in done.stderr
    assert done.stdout == ''


def test_without_slurm(run, tmp_path):
    done = run('gpu', 'job', 'my config.py', path=str(tmp_path / 'empty'))
    # Its own tools are not found either, but that comes first.
    assert done.returncode != 0
    assert 'srun was not found; without Slurm use' in done.stderr

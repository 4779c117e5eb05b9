"""Train the embedded example and show what came out.

A teacher learns handwritten digits, then the digits are gone. Two students
learn from its answers to printed glyphs: one by plain KD on random glyphs,
one by EEIKD. All three are evaluated on handwritten digits that none of them
has seen.
"""

import argparse
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIGS = os.path.join(HERE, '..', 'configs', 'demo')
RUNS = (
    ('teacher', 'teacher_digits.py'),
    ('KD on random glyphs', 'kd_random_digits.py'),
    ('EEIKD', 'eeikd_digits.py'),
)


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument(
        '--work-dir',
        default=os.path.join('work_dirs', 'demo'),
        help='folder of all runs',
    )
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()

    folders = []
    teacher = os.path.join(args.work_dir, 'teacher')
    for name, config in RUNS:
        folder = os.path.join(args.work_dir, os.path.splitext(config)[0])
        options = [f'randomness.seed={args.seed}']
        if name == 'teacher':
            folder = teacher
        else:
            options.append(
                'model.teacher_ckpt=' + os.path.join(teacher, 'epoch_20.pth')
            )
        folders.append(folder)
        start = time.perf_counter()
        print(f'--- {name}: {config}', flush=True)
        subprocess.run(
            [
                sys.executable,
                os.path.join(HERE, 'train.py'),
                os.path.join(CONFIGS, config),
                '--work-dir',
                folder,
                '--cfg-options',
                *options,
            ],
            check=True,
        )
        print(f'--- {name}: {time.perf_counter() - start:.0f} s', flush=True)
    subprocess.run(
        [
            sys.executable,
            os.path.join(HERE, 'report.py'),
            *folders,
            '--names',
            *(name for name, _ in RUNS),
            '--out',
            os.path.join(args.work_dir, 'report.html'),
        ],
        check=True,
    )


if __name__ == '__main__':
    try:
        main()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)

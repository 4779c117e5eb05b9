"""Compare finished runs: a table in the terminal and one page.

``python tools/report.py RUN_DIR [RUN_DIR ...] --out page.html``
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmkd_plugin.engine.report import (
    format_table,
    parse_report,
    read_pictures,
    render_page,
    write_file,
)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Compare finished runs in a table and on one page'
    )
    parser.add_argument(
        'run_dirs',
        nargs='+',
        type=Path,
        metavar='RUN_DIR',
        help='work directory of a run with DistillReportHook',
    )
    parser.add_argument(
        '--names',
        nargs='+',
        metavar='NAME',
        help='one name per run; the names of the directories by default',
    )
    parser.add_argument(
        '--out', type=Path, required=True, help='the page, an HTML file'
    )
    args = parser.parse_args(argv)
    if args.names and len(args.names) != len(args.run_dirs):
        parser.error(
            f'--names needs one name per run: got {len(args.names)} for '
            f'{len(args.run_dirs)} runs'
        )
    return args


def load_reports(run_dirs: Sequence[Path]) -> list:
    """Read the reports of some runs.

    Args:
        run_dirs (Sequence[Path]): Work directories.

    Returns:
        list: The reports.

    Raises:
        ValueError: If a report is missing or corrupt. The message lists all
            such runs, each with the command that makes it.
    """
    reports, faults = [], []
    for run_dir in run_dirs:
        path = run_dir / 'report' / 'report.json'
        try:
            reports.append(parse_report(path.read_text(encoding='utf-8')))
        except OSError:
            faults.append((run_dir, f'there is no {path}'))
        except ValueError as error:
            faults.append((run_dir, f'{path} is corrupt: {error}'))
    if faults:
        lines = [
            f'  {run_dir}: {reason}\n'
            f'    make it by: python tools/train.py CONFIG '
            f'--work-dir {run_dir}'
            for run_dir, reason in faults
        ]
        raise ValueError(
            f'{len(faults)} of {len(run_dirs)} runs have no report (train '
            f'with DistillReportHook in custom_hooks):\n' + '\n'.join(lines)
        )
    return reports


def run_names(
    run_dirs: Sequence[Path], names: Optional[Sequence[str]] = None
) -> list:
    """Name runs by their directories, whole paths where these are equal."""
    if names:
        return list(names)
    short = [run_dir.resolve().name for run_dir in run_dirs]
    if len(set(short)) == len(short):
        return short
    return [str(run_dir) for run_dir in run_dirs]


def main(argv: Optional[Sequence[str]] = None) -> None:
    args = parse_args(argv)
    try:
        reports = load_reports(args.run_dirs)
    except ValueError as error:
        sys.exit(str(error))
    names = run_names(args.run_dirs, args.names)
    reports = [
        dict(report, run_name=name)
        for report, name in zip(reports, names, strict=True)
    ]
    pictures = [read_pictures(run_dir) for run_dir in args.run_dirs]
    write_file(args.out, render_page(reports, pictures))
    print(format_table(reports))
    print(args.out)


if __name__ == '__main__':
    main()

"""Which checkpoint a run goes on from."""

import glob
import os
from typing import Optional

from mmengine.logging import print_log

from mmkd_plugin.utils.checkpoint import load_weights


def find_resume_checkpoint(work_dir: str) -> Optional[str]:
    """Find the newest whole checkpoint of a run.

    Args:
        work_dir (str): The run's folder.

    Returns:
        str or None: The one that ``last_checkpoint`` names, where that can
        be read, in this folder if there is one of that name; else the newest
        ``epoch_*.pth`` or ``iter_*.pth`` that can; None where there is none
        at all.

    Raises:
        ValueError: If there are checkpoints, but none can be read.
    """
    candidates = []
    note = os.path.join(work_dir, 'last_checkpoint')
    if os.path.isfile(note):
        # A damaged note is one that names nothing.
        with open(note, errors='replace') as file:
            named = file.read().strip()
        # The run may have been moved or copied since.
        candidates += [
            os.path.join(work_dir, os.path.basename(named)),
            named,
        ]
    files = [
        path
        for kind in ('epoch_*.pth', 'iter_*.pth')
        for path in glob.glob(os.path.join(glob.escape(work_dir), kind))
    ]
    candidates += sorted(files, key=os.path.getmtime, reverse=True)
    candidates = [path for path in candidates if os.path.isfile(path)]
    for path in candidates:
        try:
            load_weights(path)
        except ValueError as error:
            print_log(f'not resumed from: {error}', 'current')
        else:
            return path
    if candidates:
        raise ValueError(
            f'none of the checkpoints in {work_dir} can be read: '
            f'{", ".join(sorted(set(candidates)))}'
        )
    return None

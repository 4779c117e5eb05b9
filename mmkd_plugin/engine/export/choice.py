"""Which one of several students is exported."""

from typing import Optional

from mmengine.logging import print_log

from mmkd_plugin.utils.checks import nearest

from ..loops.students_evaluator import STUDENT_METRICS


def choose_student(
    config: dict, checkpoint: dict, name: Optional[str] = None
) -> Optional[str]:
    """Choose one of the students that were trained together.

    Args:
        config (dict): The config of the run.
        checkpoint (dict): Content of its checkpoint.
        name (str, optional): The student that is wanted. Defaults to None,
            which takes the best one of the last validation before the
            checkpoint was written, if that knows of one.

    Returns:
        str or None: Its name, which is logged; None where the config has no
        several students.

    Raises:
        ValueError: If there is no such student, or if the checkpoint does not
            tell which is best.
    """
    students = (config.get('model') or {}).get('students')
    if students is None:
        if name is not None:
            raise ValueError(
                f'there is one model alone, but the student {name!r} is '
                f'asked for: leave that out'
            )
        return None
    if name is not None:
        if name not in students:
            raise ValueError(
                f'there is no student {name!r}; {nearest(name, students)}'
            )
        return name
    hub = checkpoint.get('message_hub')
    infos = hub.get('runtime_info') if isinstance(hub, dict) else None
    found = (infos or {}).get(STUDENT_METRICS)
    if not isinstance(found, dict) or found.get('best') not in students:
        raise ValueError(
            f'the checkpoint does not tell which of the students '
            f'{", ".join(students)} is best: name one with --student'
        )
    shown = ', '.join(f'{n} {v:.4f}' for n, v in found['values'].items())
    print_log(
        f'student {found["best"]} is taken, the best in the validation at '
        f'iteration {found["iteration"]} ({found["metric"]}: {shown})',
        logger='current',
    )
    return found['best']

"""Boxes and classes of images, from a CSV file."""

import csv
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Optional

from mmkd_plugin.utils.checks import nearest

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


class BoxesTable(NamedTuple):
    """What :func:`read_boxes_table` returns.

    Attributes:
        boxes (dict[str, list[list[float]]]): The boxes of each file, ``[x1,
            y1, x2, y2]``, half open, pixels.
        labels (dict[str, int], optional): Class index of each file. None
            where the table has no classes.
        classes (tuple[str, ...], optional): Names of the classes. None where
            the table has none.
    """

    boxes: dict[str, list[list[float]]]
    labels: Optional[dict[str, int]]
    classes: Optional[tuple[str, ...]]


def read_boxes_table(
    path: str, classes: Optional[Sequence[str]] = None
) -> BoxesTable:
    """Read a table with one line a box.

    Args:
        path (str): A CSV file whose header has ``file``, ``xmin``, ``ymin``,
            ``xmax``, ``ymax`` (pixels, the maxima exclusive) and perhaps
            ``class``, indices from 0 or else names, and ``class_name``.
            Other columns are not looked at.
        classes (Sequence[str], optional): The names in the order of the
            labels. Defaults to None: indices stay as they are, and are named
            by ``class_name`` or else by themselves; names are numbered in
            sorted order.

    Returns:
        BoxesTable: The boxes, labels and names.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is missing, if a cell is malformed, if lines
            of one file have different classes, or lines of one index
            different names, or if ``classes`` does not name a class.
    """
    boxes, texts, names = defaultdict(list), {}, {}
    with open(path, encoding='utf-8-sig', newline='') as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        missing = [c for c in ('file', *CORNERS) if c not in columns]
        if missing:
            raise ValueError(
                f'{path} has no column {", ".join(missing)}, its header has '
                f'{", ".join(columns) or "nothing"}'
            )
        column = next((c for c in ('class', 'class_name') if c in columns), '')
        for row in reader:
            where = f'{path}, line {reader.line_num}'
            name = os.path.normpath(row['file'])
            boxes[name].append(_read_box(row, where))
            if not column:
                continue
            text = row[column]
            if not text or texts.setdefault(name, text) != text:
                raise ValueError(
                    f'{where}: {column} of {name} is {text!r}'
                    + (f', but was {texts[name]!r} before' if text else '')
                )
            label = row.get('class_name') or text
            if names.setdefault(text, label) != label:
                raise ValueError(
                    f'{where}: the class {text} is called {label!r}, but was '
                    f'{names[text]!r} before'
                )
    if not boxes:
        raise ValueError(f'{path} has no line below its header')
    if not column:
        return BoxesTable(dict(boxes), None, None)
    if all(text.isdecimal() for text in names):
        known = {int(text): label for text, label in names.items()}
        if classes is None:
            classes = [known.get(i, str(i)) for i in range(max(known) + 1)]
        elif max(known) >= len(classes):
            raise ValueError(
                f'{path} has the class {max(known)}, but classes names only '
                f'{len(classes)}'
            )
        labels = {name: int(text) for name, text in texts.items()}
    else:
        if classes is None:
            classes = sorted(names)
        for text in names:
            if text not in classes:
                raise ValueError(
                    f'{path} has the class {text!r}, which classes does not '
                    f'name; {nearest(text, classes)}'
                )
        labels = {
            name: list(classes).index(text) for name, text in texts.items()
        }
    return BoxesTable(dict(boxes), labels, tuple(classes))


def _read_box(row: dict, where: str) -> list[float]:
    cells = [row[corner] for corner in CORNERS]
    try:
        box = [float(cell) for cell in cells]
    except (TypeError, ValueError):
        box = [math.nan] * 4
    x1, y1, x2, y2 = box
    # Compared this way round, NaN is not a box either.
    if not (x1 < x2 and y1 < y2 and all(map(math.isfinite, box))):
        raise ValueError(
            f'{where}: xmin, ymin, xmax, ymax must be numbers, the maxima '
            f'larger than the minima, but are {cells}'
        )
    return box

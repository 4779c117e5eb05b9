"""Annotation files in the XML of PASCAL VOC, which ImageNet uses as well."""

import math
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass


@dataclass(frozen=True)
class XmlObject:
    """An object of an annotation file.

    Attributes:
        number (int): Its position among all objects of the file, from 1.
        name (str): Its class.
        box (tuple[float, float, float, float]): xmin, ymin, xmax, ymax as
            they stand in the file.
        difficult (bool): Whether it is marked as hard to recognize.
    """

    number: int
    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class XmlAnnotation:
    """What an annotation file says.

    Attributes:
        folder (str): The folder of the image; empty where not stated.
        filename (str): The name of the image; empty where not stated.
        objects (list[XmlObject]): All objects, in the order of the file.
    """

    folder: str
    filename: str
    objects: list[XmlObject]


def _number(path: str, element: ET.Element, tag: str, owner: str) -> float:
    """Read a finite number."""
    text = element.findtext(tag)
    if text is None:
        raise ValueError(f'{path}: {owner} has no <{tag}>')
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f'{path}: <{tag}> of {owner} must be a finite number, but is '
            f'{text!r}'
        )
    return value


def read_voc_xml(path: str) -> XmlAnnotation:
    """Read an annotation file.

    Args:
        path (str): The file.

    Returns:
        XmlAnnotation: Its content. An object without ``<difficult>`` is not
        difficult.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no XML, or if an object lacks its name or its
            box, or if a coordinate is no finite number.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f'there is no annotation file {path}')
    try:
        root = ET.parse(path).getroot()
    except ET.ParseError as error:
        raise ValueError(f'{path} is no complete XML: {error}') from error
    if root.tag != 'annotation':
        raise ValueError(
            f'{path} must hold an <annotation>, but holds a <{root.tag}>'
        )
    objects = []
    for number, element in enumerate(root.findall('object'), start=1):
        owner = f'object {number}'
        name = (element.findtext('name') or '').strip()
        if not name:
            raise ValueError(f'{path}: {owner} has no <name>')
        bndbox = element.find('bndbox')
        if bndbox is None:
            raise ValueError(f'{path}: {owner} ({name}) has no <bndbox>')
        box = tuple(
            _number(path, bndbox, tag, f'{owner} ({name})')
            for tag in ('xmin', 'ymin', 'xmax', 'ymax')
        )
        difficult = element.find('difficult') is not None and bool(
            _number(path, element, 'difficult', f'{owner} ({name})')
        )
        objects.append(XmlObject(number, name, box, difficult))
    return XmlAnnotation(
        folder=(root.findtext('folder') or '').strip(),
        filename=(root.findtext('filename') or '').strip(),
        objects=objects,
    )

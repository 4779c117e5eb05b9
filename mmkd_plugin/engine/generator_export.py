"""A trained generator as a file of its own, and as ONNX."""

import io
import os
from dataclasses import dataclass
from typing import Any, Optional

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import nn

from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checkpoint import (
    find_weights,
    load_strict,
    read_checkpoint,
)
from mmkd_plugin.utils.checks import check_number, nearest
from mmkd_plugin.utils.finite import find_non_finite
from mmkd_plugin.version import __version__

from .export.files import check_target, is_same, write_together
from .export.onnx_file import (
    check_onnx_packages,
    compare_onnx,
    has_onnx_runtime,
    to_onnx,
)
from .mosaic_state import STATE_KEY

FORMAT = 'mmkd_plugin.generator'
FORMAT_VERSION = 1
# What one needs of a network to make images with it.
_ATTRIBUTES = ('sample_latent', 'latent_dim', 'image_size', 'out_channels')


@dataclass
class GeneratorExport:
    """What :func:`export_generator` has written.

    Attributes:
        checkpoint (str): Path of the generator.
        onnx (str, optional): Path of the ONNX file.
        meta (dict): What is stored beside the weights.
        deviation (float, optional): Largest deviation of onnxruntime's
            images, relative to the brightest pixel; None if there is no
            ONNX file or no onnxruntime.
    """

    checkpoint: str
    onnx: Optional[str]
    meta: dict
    deviation: Optional[float]


def load_generator(path: str) -> tuple[nn.Module, dict]:
    """Load the generator that a run has trained.

    No code that the file may hold is run, and it can only name networks
    that are registered.

    Args:
        path (str): A checkpoint of a run with ``MosaicGeneratorHook``, or
            what :func:`export_generator` made of one.

    Returns:
        tuple[nn.Module, dict]: The generator, on the CPU in eval mode, and
        what is known of it, in plain Python:

        - ``format``, ``version``: those of the exported file;
        - ``generator``: config of the network;
        - ``mean``, ``std``: the teacher's normalisation, for pixels of 0 to
          255 in the channel order of the generator's images;
        - ``checkpoint``: name of the run's checkpoint, without its folder;
        - ``iteration``: the run's training iterations, or None;
        - ``mmkd_plugin_version``: the version that read the run's
          checkpoint.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no generator, or if config, weights and
            normalisation do not fit together.
    """
    content = read_checkpoint(path)
    if STATE_KEY in content:
        meta, weights = _of_run(content, path)
    elif _holds_format(content):
        meta, weights = _of_export(content, path)
    else:
        raise ValueError(
            f'{path} holds no generator: it is neither a checkpoint of a run '
            f'with MosaicGeneratorHook (`{STATE_KEY}`) nor a file of '
            f'tools/export_generator.py; its keys are '
            f'{", ".join(map(str, list(content)[:8]))}'
        )
    if not isinstance(weights, dict):
        raise ValueError(
            f'the weights of the generator in {path} are a '
            f'{type(weights).__name__}, not a dict of tensors'
        )
    weights = find_weights(dict(state_dict=weights), path)
    generator = _build(meta['generator'], path)
    for name in ('mean', 'std'):
        _check_statistic(name, meta[name], generator.out_channels, path)
    load_strict(generator, weights, 'generator', path)
    broken = find_non_finite(weights)
    if broken is not None:
        raise ValueError(
            f'the generator of {path} is broken: {broken} is not finite. '
            f'Take an earlier checkpoint'
        )
    return generator.train(False), meta


def _of_run(content: dict, path: str) -> tuple[dict, Any]:
    state = content[STATE_KEY]
    _check_keys(
        state,
        ('generator', 'mean', 'std', 'players'),
        f'the state of MosaicGeneratorHook in {path}',
    )
    _check_keys(
        state['players'],
        ('generator',),
        f'the state of the players of MosaicGeneratorHook in {path}',
    )
    run = content.get('meta')
    iteration = run.get('iter') if isinstance(run, dict) else None
    meta = dict(
        format=FORMAT,
        version=FORMAT_VERSION,
        generator=state['generator'],
        mean=state['mean'],
        std=state['std'],
        # The folder is of no use elsewhere, and may be private.
        checkpoint=os.path.basename(path),
        iteration=iteration if isinstance(iteration, int) else None,
        mmkd_plugin_version=__version__,
    )
    return meta, state['players']['generator']


def _holds_format(content: dict) -> bool:
    meta = content.get('meta')
    return isinstance(meta, dict) and meta.get('format') == FORMAT


def _of_export(content: dict, path: str) -> tuple[dict, Any]:
    meta = content['meta']
    if meta.get('version') != FORMAT_VERSION:
        raise ValueError(
            f'{path} has version {meta.get("version")!r} of the format of '
            f'generators, but this program reads version {FORMAT_VERSION}'
        )
    needed = ('generator', 'mean', 'std', 'checkpoint', 'iteration')
    _check_keys(meta, needed, f'`meta` in {path}')
    _check_keys(content, ('state_dict',), path)
    return meta, content['state_dict']


def _check_keys(part: Any, needed: tuple[str, ...], what: str) -> None:
    if not isinstance(part, dict):
        raise ValueError(f'{what} is a {type(part).__name__}, not a dict')
    missing = [key for key in needed if key not in part]
    if missing:
        raise ValueError(
            f'{what} lacks {missing}; it has {sorted(map(str, part))}'
        )


def _build(config: Any, path: str) -> nn.Module:
    where = f'the generator of {path}'
    kind = config.get('type') if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ValueError(
            f'{where} must be a config with its type, but got {config!r}'
        )
    # The registry would import whatever the file names.
    known = MODELS.module_dict
    if kind not in known:
        raise ValueError(
            f'{where}: there is no {kind!r} in the registry {MODELS.name}; '
            f'{nearest(kind, known)}. A network of your own must be imported '
            f'first'
        )
    options = {k: v for k, v in config.items() if k != '_scope_'}
    generator = build_part(where, MODELS, options)
    lacking = [name for name in _ATTRIBUTES if not hasattr(generator, name)]
    if lacking:
        raise ValueError(
            f'{where}: {kind} is no generator, it has no {", ".join(lacking)}'
        )
    return generator


def _check_statistic(name: str, values: Any, channels: int, path: str) -> None:
    if not isinstance(values, list) or len(values) != channels:
        raise ValueError(
            f'{name} in {path} must be a list with a number for each of the '
            f'{channels} channels of the images, but got {values!r}'
        )
    for value in values:
        check_number(f'{name} in {path}', value)


def export_generator(
    checkpoint: str,
    out: str,
    *,
    onnx: Optional[str] = None,
    force: bool = False,
) -> GeneratorExport:
    """Write a trained generator into a file of its own.

    ``out`` is a dict of ``meta`` (see :func:`load_generator`) and
    ``state_dict``, in plain Python and tensors.

    The ONNX file has one input, ``noise``: standard normal, float32 ``(B,
    latent_dim)``, B free; and one output, ``images``: in [0, 1], float32
    ``(B, out_channels, image_size, image_size)``. Its metadata have ``meta``
    in JSON. Both are the generator in eval mode.

    Nothing is written unless everything has been checked.

    Args:
        checkpoint (str): A checkpoint of a run with ``MosaicGeneratorHook``,
            or an exported generator.
        out (str): The file to write, ``*.pth``.
        onnx (str, optional): The ONNX file to write, ``*.onnx``. It is
            compared with the generator where onnxruntime is installed.
            Defaults to None.
        force (bool): Whether existing files may be replaced. Defaults to
            False.

    Returns:
        GeneratorExport: What was written.

    Raises:
        FileExistsError: If a file exists and ``force`` is not set.
        FileNotFoundError: If the checkpoint or a folder does not exist.
        ImportError: If ``onnx`` is given and packages for it are missing.
        ValueError: If :func:`load_generator` refuses the checkpoint, a name
            ends in something else, a file would be overwritten that must not
            be, or the ONNX file does not reproduce the images.
    """
    targets = {out: '.pth'}
    if onnx is not None:
        targets[onnx] = '.onnx'
    for path, suffix in targets.items():
        check_target(path, suffix)
        if os.path.isdir(path) or is_same(path, checkpoint):
            raise ValueError(
                f'{path} would overwrite what is there: choose another'
            )
        if os.path.exists(path) and not force:
            raise FileExistsError(f'{path} exists. Use --force to replace it')
    if onnx is not None:
        check_onnx_packages(run=False)
    generator, meta = load_generator(checkpoint)

    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=generator.state_dict()), buffer)
    contents = {out: buffer.getvalue()}
    deviation = None
    if onnx is not None:
        shape = (generator.latent_dim,)
        contents[onnx] = to_onnx(
            generator,
            shape,
            what='generator',
            inputs='noise',
            outputs='images',
            notes=meta,
        )
        if has_onnx_runtime():
            deviation = compare_onnx(
                contents[onnx],
                generator,
                shape,
                what='generator',
                unit='pixel',
            )
        else:
            print_log(
                f'{onnx} is not compared with the generator, as onnxruntime '
                f'is not installed',
                logger='current',
            )
    write_together(contents)
    return GeneratorExport(out, onnx, meta, deviation)

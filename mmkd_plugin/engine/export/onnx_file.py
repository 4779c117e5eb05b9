"""A network as an ONNX model that gives the same."""

import importlib.util
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Optional

import torch
from torch import nn

TOLERANCE = 1e-4
_MAKERS = ('onnx', 'onnxscript')
_RUNTIME = 'onnxruntime'


def has_onnx_runtime() -> bool:
    """Whether ONNX models can be run here."""
    return importlib.util.find_spec(_RUNTIME) is not None


def check_onnx_packages(*, run: bool = True) -> None:
    """Check that what makes and runs ONNX models is installed.

    Args:
        run (bool): Whether they are to be run. Defaults to True.

    Raises:
        ImportError: If it is not. The message has the command.
    """
    needed = (*_MAKERS, _RUNTIME) if run else _MAKERS
    missing = [n for n in needed if importlib.util.find_spec(n) is None]
    if missing:
        raise ImportError(
            f'--onnx needs {", ".join(missing)}: '
            f"pip install 'mmkd_plugin[tests]'"
        )


def to_onnx(
    function: nn.Module,
    shape: Sequence[int],
    *,
    what: str,
    inputs: str,
    outputs: str,
    notes: dict,
    opset: Optional[int] = None,
) -> bytes:
    """Make an ONNX model of a network, for batches of any size.

    Args:
        function (nn.Module): One float32 tensor in, one out.
        shape (Sequence[int]): What it takes, without the batch.
        what (str): What the network is, for messages.
        inputs (str): Name of the model's input.
        outputs (str): Name of its output.
        notes (dict): Its metadata, which become JSON.
        opset (int, optional): Version of the ONNX operators. Defaults to
            None, which is what PyTorch recommends.

    Returns:
        bytes: The file.

    Raises:
        ValueError: If PyTorch cannot export the network, or not with that
            opset.
    """
    import onnx

    example = torch.zeros(2, *shape)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'model.onnx')
        try:
            with _quiet('onnxscript', 'torch.onnx'):
                torch.onnx.export(
                    function,
                    (example,),
                    path,
                    dynamo=True,
                    input_names=[inputs],
                    output_names=[outputs],
                    dynamic_shapes=({0: 'batch'},),
                    opset_version=opset,
                    # One file, up to ONNX's limit of 2 GB.
                    external_data=False,
                    verbose=False,
                )
        # The exporter has errors of its own and passes on others.
        except Exception as error:
            raise ValueError(
                f'PyTorch cannot export the {what} to ONNX: '
                f'{type(error).__name__}: {str(error)[:500]}'
            ) from error
        model = onnx.load(path)
    versions = {o.domain: o.version for o in model.opset_import}
    if opset is not None and versions.get('') != opset:
        raise ValueError(
            f'PyTorch cannot export the {what} with ONNX opset {opset}, '
            f'only with {versions.get("")}'
        )
    # The exporter notes where in which source file each node comes from.
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField('metadata_props')
    for part in (*model.graph.input, *model.graph.output):
        part.ClearField('metadata_props')
    for part in model.graph.initializer:
        part.ClearField('metadata_props')
    onnx.helper.set_model_props(
        model, {key: json.dumps(value) for key, value in notes.items()}
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


@torch.no_grad()
def compare_onnx(
    content: bytes,
    function: nn.Module,
    shape: Sequence[int],
    *,
    what: str,
    unit: str,
) -> float:
    """Compare an ONNX model with the network that it was made of.

    Args:
        content (bytes): What :func:`to_onnx` returned.
        function (nn.Module): The network.
        shape (Sequence[int]): What it takes, without the batch.
        what (str): What the network is, for messages.
        unit (str): What one of its numbers is, for messages.

    Returns:
        float: The largest deviation of onnxruntime's numbers on normally
        distributed inputs, in batches of 1 and 5, relative to the network's
        largest number.

    Raises:
        ValueError: If it is more than ``TOLERANCE``.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(
        content, providers=['CPUExecutionProvider']
    )
    (name,) = (node.name for node in session.get_inputs())
    generator = torch.Generator().manual_seed(0)
    deviations = []
    for batch in (1, 5):
        given = torch.randn(batch, *shape, generator=generator)
        expected = function(given)
        (got,) = session.run(None, {name: given.numpy()})
        gap = (torch.from_numpy(got) - expected).abs().max()
        deviations.append((gap / expected.abs().max()).item())
    # Also true for NaN.
    if not max(deviations) <= TOLERANCE:
        raise ValueError(
            f'the ONNX model deviates from the {what} by '
            f'{max(deviations):.1e} of the largest {unit}, more than '
            f'{TOLERANCE:.0e}'
        )
    return max(deviations)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep loggers from printing tracebacks of what is handled here."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

"""All that a count of knowledge points depends on, besides the networks."""

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Optional, Union

import torch
from torch import Tensor

from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    nearest,
)

from .cell_energy import FeatureFn, cell_energy, default_probes
from .cell_entropy import (
    CellEntropy,
    entropy_converged,
    entropy_flow,
    entropy_sgd,
)
from .knowledge_points import REFERENCES

_METHODS = dict(
    flow=entropy_flow, sgd=entropy_sgd, converged=entropy_converged
)
# Not constants of the method: what they are is decided elsewhere.
_NO_CONSTANTS = (
    *('energy', 'feature_fn', 'images', 'grid'),
    *('relu', 'memory', 'generator'),
)


@dataclass(frozen=True)
class Protocol:
    """How knowledge points are counted.

    Counts of different protocols must not be compared.

    Args:
        layer (str): Dotted path of the module whose output is explained.
        teacher_layer (str, optional): That of the teacher. Defaults to None,
            the same.
        record_idx (int): Which call of the module. Defaults to 0.
        data_idx (int or str, optional): Which element of its output.
            Defaults to None, the whole.
        relu (bool): Whether a ReLU follows the feature, as in the released
            protocol. Defaults to True.
        grid (Sequence[int]): Rows and columns of cells. Defaults to
            (16, 16).
        method (str): ``'flow'``, ``'sgd'`` or ``'converged'``, see
            :func:`entropy_flow`, :func:`entropy_sgd` and
            :func:`entropy_converged`. Defaults to ``'flow'``.
        constants (dict): Keyword arguments of the method, such as
            ``dict(lam=6.0)`` for a ResNet; those that are not given have the
            method's defaults. Defaults to {}.
        probes (int, optional): How many directions the energies are
            estimated from, see :func:`cell_energy`; not for ``'sgd'``.
            Defaults to None, exact for short features, otherwise 64.
        b (float): By how many nats a point is below the reference. Defaults
            to 0.2.
        reference (str): See :func:`knowledge_points`. Defaults to
            ``'background_dataset'``.
        released_filter (bool): Whether only the images that
            :func:`effective_images` keeps, for all networks that were
            trained, are counted. Defaults to False.
        from_epoch (int): Of that filter. Defaults to 40.
        limit (int): Of that filter. Defaults to 50.
        seed (int): Of the directions, or of the noise: the same for all
            checkpoints of all networks. Defaults to 0.

    Raises:
        ValueError: If an option is out of its range, or if the method has no
            such constant.
    """

    layer: str
    teacher_layer: Optional[str] = None
    record_idx: int = 0
    data_idx: Optional[Union[int, str]] = None
    relu: bool = True
    grid: Sequence[int] = (16, 16)
    method: str = 'flow'
    constants: dict = field(default_factory=dict)
    probes: Optional[int] = None
    b: float = 0.2
    reference: str = 'background_dataset'
    released_filter: bool = False
    from_epoch: int = 40
    limit: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.layer, str) or not self.layer:
            raise ValueError(
                f'layer must be the path of a module, such as '
                f'"backbone.layer4", but got {self.layer!r}'
            )
        check_choice('method', self.method, _METHODS)
        check_choice('reference', self.reference, REFERENCES)
        check_number('b', self.b, least=0)
        check_flag('relu', self.relu)
        check_flag('released_filter', self.released_filter)
        check_count('record_idx', self.record_idx, least=0)
        check_count('from_epoch', self.from_epoch, least=0)
        check_count('limit', self.limit)
        check_count('seed', self.seed, least=0)
        if self.probes is not None:
            check_count('probes', self.probes)
        if (
            not isinstance(self.grid, Sequence)
            or len(self.grid) != 2
            or any(type(cells) is not int or cells < 1 for cells in self.grid)
        ):
            raise ValueError(
                f'grid must be two positive integers, rows and columns, but '
                f'got {self.grid!r}'
            )
        if self.data_idx is not None and (
            type(self.data_idx) not in (int, str)
        ):
            raise ValueError(
                f'data_idx must be an integer, a key or None, but got '
                f'{self.data_idx!r}'
            )
        known = self._defaults()
        for name in self.constants:
            if name not in known:
                raise ValueError(
                    f'constants: the method {self.method!r} has no '
                    f'{name!r}; {nearest(name, known)}'
                )

    @classmethod
    def from_options(cls, options: dict) -> 'Protocol':
        """Make a protocol from the part of a config.

        Args:
            options (dict): Names and values as above.

        Returns:
            Protocol: The protocol.

        Raises:
            ValueError: If an option is unknown, missing or out of range.
        """
        known = [part.name for part in fields(cls)]
        for name in options:
            if name not in known:
                raise ValueError(
                    f'the protocol has no {name!r}; {nearest(name, known)}'
                )
        if 'layer' not in options:
            raise ValueError(
                'the protocol needs layer, the path of the module that is '
                'explained'
            )
        options = dict(options)
        options['constants'] = dict(options.get('constants') or {})
        if isinstance(options.get('grid'), list):
            options['grid'] = tuple(options['grid'])
        return cls(**options)

    def _defaults(self) -> dict:
        parameters = inspect.signature(_METHODS[self.method]).parameters
        return {
            name: parameter.default
            for name, parameter in parameters.items()
            if name not in _NO_CONSTANTS
        }

    def as_dict(self) -> dict:
        """Collect all values, those of the constants that were not given too.

        Returns:
            dict: Plain values.
        """
        values = asdict(self)
        values['grid'] = list(self.grid)
        values['teacher_layer'] = self.teacher_layer or self.layer
        values['constants'] = {**self._defaults(), **self.constants}
        if self.method == 'sgd':
            del values['probes']
        return values

    def num_probes(self, feature_length: int) -> Optional[int]:
        """Tell from how many directions the energies are computed.

        Args:
            feature_length (int): Numbers in the feature of an image.

        Returns:
            int or None: The number; as many as there are numbers is exact.
            None where no directions are used.
        """
        if self.method == 'sgd':
            return None
        return default_probes(feature_length, self.probes)

    def check(
        self, feature_fn: FeatureFn, images: Tensor, memory: int
    ) -> None:
        """Try all options on one image, with as little work as possible.

        Args:
            feature_fn (Callable): Normalised images in, features out.
            images (Tensor): Normalised images, shape ``(N, C, H, W)``.
            memory (int): Budget in bytes, see :func:`cell_energy`.

        Raises:
            ValueError: As :meth:`entropy`, but for what depends on the
                weights.
        """
        quick = replace(self, probes=1)
        if self.method == 'sgd':
            few = dict(samples=2, iterations=1, extra_iterations=0)
            constants = {**self.constants, **few}
            # What is left out is checked as well.
            known = inspect.signature(entropy_flow).parameters
            given = {k: v for k, v in self.constants.items() if k in known}
            entropy_flow(torch.ones(1, 1, 1), **given)
            quick = replace(self, constants=constants)
        quick.entropy(feature_fn, images[:1], memory)

    def entropy(
        self, feature_fn: FeatureFn, images: Tensor, memory: int
    ) -> CellEntropy:
        """Compute the entropies of a network's cells.

        Args:
            feature_fn (Callable): Normalised images in, features out.
            images (Tensor): Normalised images, shape ``(N, C, H, W)``.
            memory (int): Budget in bytes, see :func:`cell_energy`.

        Returns:
            CellEntropy: The entropies and flags.

        Raises:
            ValueError: As the functions that compute them.
        """
        # The same for all networks, so that they are asked the same.
        generator = torch.Generator().manual_seed(self.seed)
        common = dict(relu=self.relu, memory=memory, generator=generator)
        if self.method == 'sgd':
            return entropy_sgd(
                feature_fn, images, self.grid, **self.constants, **common
            )
        energy = cell_energy(
            feature_fn, images, self.grid, self.probes, **common
        )
        return _METHODS[self.method](energy, **self.constants)

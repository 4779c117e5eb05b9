"""Networks that share their lower stages: a trunk, and branches on it.

A branch is a whole network of its own as far as its code goes, whose forward
pass is not cut into pieces. But what comes before the branching point has been
taken out of it: there, it is handed empty tensors of the right shapes, and at
the branching point what the main network had there.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Optional

import torch
from torch import Tensor, nn

from mmkd_plugin.models.recorders import ModuleInputs
from mmkd_plugin.models.recorders.base_recorder import keep
from mmkd_plugin.models.recorders.module_recorder import (
    ModuleRecorder,
    find_module,
)
from mmkd_plugin.utils.architecture import build_architecture
from mmkd_plugin.utils.checks import nearest


def _like(value: Any, make: Callable[[Tensor], Tensor]) -> Any:
    """Make the like of a tensor, in nested tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return make(value)
    if isinstance(value, (tuple, list)):
        return type(value)(_like(v, make) for v in value)
    if isinstance(value, dict):
        return {k: _like(v, make) for k, v in value.items()}
    return value


def _not_a_number(value: Tensor) -> Tensor:
    fill = math.nan if value.is_floating_point() else 0
    return torch.full_like(value, fill)


class _Output(ModuleRecorder):
    """Keeps what a module returned, not copied: its shape alone counts."""

    def install(self, module: nn.Module) -> Any:
        return module.register_forward_hook(self._record)

    def _record(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.recording:
            self.records.append(output)


class _Entry(ModuleRecorder):
    """Changes what the first module of a branch is called with."""

    given = None

    def install(self, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(self._change, with_kwargs=True)

    def _change(self, module: nn.Module, args: tuple, kwargs: dict) -> Any:
        if self.given is None:
            return args, kwargs
        # A copy for each branch, which may work on it in place.
        return keep(tuple(self.given)), keep(self.given.kwargs)


class _Removed(nn.Module):
    """Stands in a branch where a module of the trunk was.

    Args:
        later (nn.Module, optional): A module without weights that the
            network calls behind the branching point once more.
    """

    def __init__(self, later: Optional[nn.Module] = None) -> None:
        super().__init__()
        self.later = later
        self.outputs = []
        self.make = torch.empty_like

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.outputs:
            return _like(self.outputs.pop(0), self.make)
        if self.later is None:
            raise RuntimeError(
                'a module before the branching point is called in another '
                'way than when the network was built'
            )
        return self.later(*args, **kwargs)


@dataclass(frozen=True)
class BranchPoint:
    """Where a network branches.

    Attributes:
        path (str): Dotted path of the first module of a branch.
        trunk (dict[str, int]): Paths of the modules that run before it, the
            largest ones that do not hold it, and how often they run.
        reused (frozenset[str]): Those among them that run behind it, too.
        idle (frozenset[str]): Paths of modules that do not run at all.
        channels (int): Size of the features at the branching point.
        stages (tuple[str, ...]): Paths that a message can name instead.
    """

    path: str
    trunk: dict[str, int]
    reused: frozenset[str]
    idle: frozenset[str]
    channels: int
    stages: tuple[str, ...]


def _refuse(path: str, reason: str, stages: Sequence[str]) -> ValueError:
    return ValueError(
        f'the network cannot branch at {path!r}: {reason}; take a stage that '
        f'all goes through; {nearest(path, stages)}'
    )


def _calls(
    network: nn.Module, path: str, images: Tensor
) -> tuple[list[str], list]:
    """Get the modules in the order of their calls, and what one was given."""
    order, given = [], []
    with ExitStack() as stack:
        for name, module in network.named_modules():

            def note(module, args, name=name):
                order.append(name)
                if name == path:
                    given.append(args)

            handle = module.register_forward_pre_hook(note)
            stack.callback(handle.remove)
        network(images, mode='tensor')
    return order, given


def _beside(
    network: nn.Module, path: str, called: Collection[str]
) -> Iterator[str]:
    """Get the largest modules that neither hold a module nor lie in it.

    Containers whose modules are called, but not they themselves, are gone
    through.
    """
    parts = path.split('.')
    for depth in range(len(parts)):
        above = '.'.join(parts[:depth])
        waiting = [above]
        while waiting:
            parent = waiting.pop()
            for name, _ in network.get_submodule(parent).named_children():
                name = f'{parent}.{name}' if parent else name
                if name == path or path.startswith(f'{name}.'):
                    continue
                if name not in called and any(
                    other.startswith(f'{name}.') for other in called
                ):
                    waiting.append(name)
                else:
                    yield name


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def find_branch_point(
    network: nn.Module, path: str, input_shape: Sequence[int]
) -> BranchPoint:
    """Look at one forward pass of a network to see what a branch needs.

    Args:
        network (nn.Module): A classifier with mmpretrain's ``forward``.
        path (str): Dotted path of the first module of a branch.
        input_shape (Sequence[int]): Channels, height and width of an image.

    Returns:
        BranchPoint: What was found.

    Raises:
        ValueError: If there is no such module, if the network does not take
            such images, or if it cannot branch there.
    """
    if not isinstance(path, str) or not path:
        raise ValueError(
            f'branch_from must be the path of a module, such as '
            f"'backbone.layer3', but got {path!r}"
        )
    try:
        find_module(network, path)
    except ValueError as error:
        raise ValueError(f'branch_from: {error}') from None
    first = next(network.parameters())
    images = torch.zeros(
        2, *input_shape, dtype=first.dtype, device=first.device
    )
    mode = network.training
    network.train(False)
    try:
        with torch.no_grad():
            order, given = _calls(network, path, images)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ValueError(
            f'the network fails on images of the shape {tuple(input_shape)}: '
            f'{error}. Where it takes others, give another input_shape'
        ) from error
    finally:
        network.train(mode)

    counts = Counter(order)
    stages = tuple(
        name
        for name, count in counts.items()
        if name.count('.') == 1
        and count == 1
        and name != path
        and _has_weights(network.get_submodule(name))
    )
    refuse = partial(_refuse, path, stages=stages)
    if counts[path] != 1:
        raise refuse(f'it is called {counts[path]} times in a pass')
    place = order.index(path)
    before, after = Counter(order[:place]), Counter(order[place:])
    beside = list(_beside(network, path, counts))
    trunk = {name: before[name] for name in beside if before[name]}
    reused = frozenset(name for name in trunk if after[name])
    for name in reused:
        if network.get_submodule(name).state_dict():
            raise refuse(f'{name!r} is called before and behind it')
    if not any(_has_weights(network.get_submodule(name)) for name in trunk):
        raise refuse('nothing with weights comes before it')
    parts = path.split('.')
    for depth in range(len(parts)):
        above = network.get_submodule('.'.join(parts[:depth]))
        own = [name for name, _ in above.named_parameters(recurse=False)]
        if own:
            raise refuse(
                f'the {type(above).__name__} around it has parameters beside '
                f'its modules, {own}'
            )
    feature = given[0][0] if given[0] else None
    if not isinstance(feature, Tensor) or feature.dim() not in (2, 3, 4):
        raise refuse(
            'what it takes is no map of features (B, C, H, W), no tokens '
            '(B, L, C) and no vectors (B, C)'
        )
    return BranchPoint(
        path,
        trunk,
        reused,
        frozenset(name for name in beside if not counts[name]),
        feature.shape[1] if feature.dim() == 4 else feature.shape[-1],
        stages,
    )


def pooled(feature: Tensor) -> Tensor:
    """Average a feature over its places.

    Args:
        feature (Tensor): Shape ``(B, C, H, W)``, ``(B, L, C)`` or ``(B,
            C)``.

    Returns:
        Tensor: Shape ``(B, C)``.
    """
    if feature.dim() == 4:
        return feature.mean(dim=(2, 3))
    return feature.mean(dim=1) if feature.dim() == 3 else feature


def _is_pretrained(init_cfg: Any) -> bool:
    return isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained'


def build_branch(config: dict, point: BranchPoint) -> nn.Module:
    """Build a branch, freshly initialised.

    Args:
        config (dict): Config of the whole network.
        point (BranchPoint): Where it branches.

    Returns:
        nn.Module: The network without the weights of the trunk. Weights that
        the config would load are not loaded, as all branches would start
        with them.
    """
    branch = build_architecture(copy.deepcopy(config))
    for name in [*point.trunk, *point.idle]:
        above, _, child = name.rpartition('.')
        later = None
        if name in point.reused:
            later = branch.get_submodule(name)
        branch.get_submodule(above)._modules[child] = _Removed(later)
    for module in branch.modules():
        config = getattr(module, 'init_cfg', None)
        if isinstance(config, (list, tuple)):
            module.init_cfg = [c for c in config if not _is_pretrained(c)]
        elif _is_pretrained(config):
            module.init_cfg = None
    return branch


class Trunk:
    """Lets branches go on from where the main network has come.

    Args:
        point (BranchPoint): Where the branches begin.
        network (nn.Module): The main network.
        branches (Sequence[nn.Module]): What :func:`build_branch` returned.
    """

    def __init__(
        self,
        point: BranchPoint,
        network: nn.Module,
        branches: Sequence[nn.Module],
    ) -> None:
        self.point = point
        self._outputs = {name: _Output(name) for name in point.trunk}
        self._input = ModuleInputs(point.path)
        self._entries = [_Entry(point.path) for _ in branches]
        self.attach(network, branches)

    def attach(
        self, network: nn.Module, branches: Sequence[nn.Module]
    ) -> None:
        """Hook the networks, or hook them again where modules are new.

        Args:
            network (nn.Module): The main network.
            branches (Sequence[nn.Module]): The branches, in their order.
        """
        for recorder in (*self._outputs.values(), self._input):
            recorder.initialize(network)
        for entry, branch in zip(self._entries, branches, strict=True):
            entry.initialize(branch)

    @contextmanager
    def record(self) -> Iterator[None]:
        """Record the trunk while the main network runs."""
        with ExitStack() as stack:
            for recorder in (*self._outputs.values(), self._input):
                stack.enter_context(recorder)
            yield

    @property
    def feature(self) -> Tensor:
        """Tensor: What goes into the branches."""
        return self._input.get_record(data_idx=0)

    def run(
        self,
        index: int,
        branch: nn.Module,
        images: Tensor,
        make: Callable[[Tensor], Tensor] = torch.empty_like,
    ) -> Tensor:
        """Run a branch on what was recorded.

        Args:
            index (int): Which of the branches it is.
            branch (nn.Module): The branch.
            images (Tensor): What the main network was given.
            make (Callable): Makes what the trunk seems to return to the
                branch. Defaults to ``torch.empty_like``.

        Returns:
            Tensor: What the branch returns, its logits.
        """
        entry = self._entries[index]
        removed = {}
        for name, calls in self.point.trunk.items():
            removed[name] = branch.get_submodule(name)
            # Without what came behind the branching point.
            removed[name].outputs = self._outputs[name].records[:calls]
            removed[name].make = make
        entry.given = self._input.get_record()
        try:
            return branch(images, mode='tensor')
        finally:
            entry.given = None
            for module in removed.values():
                module.outputs = []

    def clear(self) -> None:
        """Forget what was recorded, so that no graph outlives the step."""
        for recorder in (*self._outputs.values(), self._input):
            recorder.clear()

    def check_ways(
        self, network: nn.Module, branch: nn.Module, input_shape: Sequence[int]
    ) -> None:
        """Check that nothing but the branching point leads into a branch.

        Args:
            network (nn.Module): The main network.
            branch (nn.Module): The first of the branches.
            input_shape (Sequence[int]): Channels, height and width of an
                image.

        Raises:
            ValueError: If something of the trunk goes around it, such as a
                shortcut.
        """
        first = next(network.parameters())
        images = torch.zeros(
            2, *input_shape, dtype=first.dtype, device=first.device
        )
        modes = network.training, branch.training
        network.train(False)
        branch.train(False)
        try:
            with torch.no_grad(), self.record():
                expected = network(images, mode='tensor')
            with torch.no_grad():
                logits = self.run(0, branch, images, _not_a_number)
        finally:
            self.clear()
            network.train(modes[0])
            branch.train(modes[1])
        if logits.isnan().any() and not expected.isnan().any():
            raise _refuse(
                self.point.path,
                'something goes around it, such as the shortcut of a block',
                self.point.stages,
            )

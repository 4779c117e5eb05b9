"""What can be found wrong before a run writes anything."""

import copy
import inspect
import logging
import os
import sys
import time
from typing import Any, NoReturn, Optional, Union

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import build_optim_wrapper
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPER_CONSTRUCTORS,
    Registry,
    init_default_scope,
)
from mmengine.runner import Runner
from torch import nn

from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checkpoint import read_checkpoint
from mmkd_plugin.utils.checks import nearest

from .loops.students_loop import StudentsLoop, check_students
from .optimizers import PerStudentOptimWrapperConstructor

# Without ``required_inputs`` in the config, these paths are looked at.
_USUAL_INPUTS = (
    'model.teacher_ckpt',
    'model.student_ckpt',
    'train_dataloader.dataset.data_file',
    'train_dataloader.dataset.data_root',
    'train_dataloader.dataset.dataset.data_root',
    'val_dataloader.dataset.data_root',
    'val_dataloader.dataset.dataset.data_root',
)


def _lookup(config: Config, key: str) -> Any:
    value = config
    for part in key.split('.'):
        if isinstance(value, (list, tuple)) and part.isdigit():
            value = value[int(part)]
        elif hasattr(value, 'get'):
            value = value.get(part)
        else:
            return None
    return value


def missing_inputs(
    config: Config, inputs: Optional[list[dict]] = None
) -> list[str]:
    """Find files and folders that a config names and that do not exist.

    A config lists what it needs in ``required_inputs``, a list of
    ``dict(key='model.teacher_ckpt', make='command that makes it')``, plus,
    optionally, ``holds='name'`` for a file or folder that must be in the
    folder. Without this list, the usual places are looked at. The checkpoint
    that a run goes on from is always looked for.

    Args:
        config (Config): The config of a run.
        inputs (list[dict], optional): What to look for instead of
            ``required_inputs``. Defaults to None.

    Returns:
        list[str]: For each missing input its key, its path and the command
        that makes it.
    """
    if inputs is None:
        inputs = config.get('required_inputs')
    if inputs is None:
        teachers = _lookup(config, 'model.teachers') or {}
        inputs = [
            dict(key=key)
            for key in (
                *_USUAL_INPUTS,
                *(f'model.teachers.{name}.ckpt' for name in teachers),
            )
        ]
    problems = []
    for item in [*inputs, dict(key='load_from')]:
        path = _lookup(config, item['key'])
        if not path and 'make' not in item:
            continue
        # Not for us to look for; who reads it says so if it cannot.
        if '://' in str(path):
            continue
        wanted = path
        if path and item.get('holds'):
            wanted = os.path.join(path, item['holds'])
        if path and os.path.exists(wanted):
            continue
        line = f'{item["key"]} = {path!r}'
        if path and item.get('holds') and os.path.exists(path):
            line += f' (holds no {item["holds"]!r})'
        if item.get('make'):
            line += f'\n      make it with: {item["make"]}'
        problems.append(line)
    return problems


def missing_inputs_message(problems: list[str], script: str) -> str:
    """Say in one message what is missing.

    Args:
        problems (list[str]): What :func:`missing_inputs` found.
        script (str): The command that was called, with its config.

    Returns:
        str: The message.
    """
    lines = '\n'.join(f'  * {problem}' for problem in problems)
    return (
        f'{len(problems)} of the inputs are missing:\n{lines}\n'
        f'Paths are set on the command line, for example\n'
        f'      {script} --cfg-options KEY=PATH ...'
    )


# Top-level names that are read, beside the arguments of the runner.
_READ = {
    'activation_checkpointing',
    'auto_scale_lr',
    'compile',
    'custom_imports',
    'default_scope',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'input_size',
    'model_wrapper_cfg',
    'required_inputs',
    'runner_type',
    'sync_bn',
    'trained_on',
}


def check_overrides(config: Config, overrides: dict) -> None:
    """Check that settings on the command line have an effect.

    A variable of a config file, say ``num_samples``, has been put to use when
    the file was read: setting it afterwards would change nothing.

    Args:
        config (Config): The config before the settings.
        overrides (dict): The settings, keys with dots.

    Raises:
        ValueError: If one is a variable of the config file.
    """
    runner = set(inspect.signature(Runner.__init__).parameters)
    for key in overrides:
        name = key.split('.')[0]
        if name in config and name not in runner | _READ:
            raise ValueError(
                f'{name!r} is a variable of the config file: to set it here '
                f'changes nothing. Set the keys where it is used, which '
                f'tools/print_config.py shows'
            )


def _find(
    registry: Registry,
    kind: Union[str, type, None],
    what: str,
    scope: Optional[str] = None,
) -> Optional[type]:
    """Find a class by its name, as the engine finds it.

    Args:
        registry (Registry): The root registry.
        kind (str or type, optional): Its name, or the class itself.
        what (str): What it is, for the message.
        scope (str, optional): Scope of the name. Defaults to None, the
            default scope.

    Returns:
        type: The class; what is no name is returned as it is.

    Raises:
        KeyError: If there is none.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(scope) as inner:
        found = inner.get(kind)
        if found is None:
            known = {**registry.module_dict, **inner.module_dict}
            raise KeyError(
                f'there is no {what} {kind!r}; {nearest(kind, known)}'
            )
    return found


def check_sampler(
    type: Union[str, type], _scope_: Optional[str] = None, **options
) -> type:
    """Check name and options of a sampler, without data.

    Args:
        type (str or type): Name or class of the sampler.
        _scope_ (str, optional): Scope of the name. Defaults to None.
        **options: Its options.

    Returns:
        type: The class.

    Raises:
        KeyError: If there is no such sampler.
        TypeError: If it has no such option, or lacks one.
        ValueError: If it refuses one.
    """
    sampler = _find(DATA_SAMPLERS, type, 'sampler', _scope_)
    try:
        # The first two are the runner's.
        arguments = {'dataset': None, 'seed': None, **options}
        inspect.signature(sampler).bind(**arguments)
    except TypeError as error:
        raise TypeError(f'{sampler.__name__}: {error}') from None
    check = getattr(sampler, 'check_options', None)
    if check is not None:
        check(**options)
    return sampler


def preflight(config: Config, script: Optional[str] = None) -> None:
    """Check a config before a runner is built and a work dir made.

    Looks for missing files, checks the options of the sampler, builds the
    model, which checks checkpoints, architectures and the mapping of the
    losses, and the optimizers, loops and views of several students, looks up
    loops, metrics and hooks, reads the checkpoint that the run goes on from,
    which must fit the model, builds the training set, lets a model with a
    ``check_dataset`` look at that, and lets the sampler check its score cache
    and the teacher's answers to the first images. Hooks with a
    ``check_inputs`` are built and look at all of these; then a model with a
    ``check_hooks``, and parts with a ``check_dataset_labels``, say if they
    miss one.

    Args:
        config (Config): The config of a run.
        script (str, optional): The command that was called, for the
            message. Defaults to None.

    Raises:
        FileNotFoundError: If inputs are missing, all in one message.
        KeyError: If there is no sampler, loop, metric or hook of that name.
        TypeError: If the sampler has no such option, or lacks one.
        ValueError: If the components find fault with their options.
    """
    problems = missing_inputs(config)
    if problems:
        raise FileNotFoundError(
            missing_inputs_message(problems, script or 'your command')
        )
    init_default_scope(config.get('default_scope', 'mmengine'))
    loader = config.get('train_dataloader') or {}
    sampler = None
    if isinstance(loader.get('sampler'), dict):
        sampler = check_sampler(**loader['sampler'])
    # Some constructors of mmpretrain write into their config.
    model = MODELS.build(copy.deepcopy(config.model))
    _check_optimizers(config.get('optim_wrapper') or {}, model)
    _check_loops(config, model)
    _check_metrics(config)
    _check_views(model)
    checkpoint, resumed = None, config.get('load_from')
    if resumed and '://' not in resumed:
        checkpoint = read_checkpoint(resumed)
        check = _check_state if config.get('resume') else _check_start
        check(model, checkpoint, resumed)
    if not config.get('resume'):
        checkpoint = None
    if isinstance(loader.get('dataset'), dict):
        try:
            dataset = DATASETS.build(copy.deepcopy(loader['dataset']))
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
        # What mmpretrain's data sets raise where files are missing or bad.
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f'the training set: {error}') from error
        if len(dataset) == 0:
            raise ValueError('the training set is empty')
        if hasattr(model, 'check_data'):
            model.check_data(dataset, loader)
        if hasattr(sampler, 'check_inputs'):
            options = dict(loader['sampler'])
            options.pop('type')
            options.pop('_scope_', None)
            sampler.check_inputs(dataset, model, **options)
        for hook in _checking_hooks(config):
            hook.check_inputs(model, dataset, loader, checkpoint)
        if hasattr(model, 'check_hooks'):
            model.check_hooks()
        for name, module in model.named_modules():
            # A hook has handed them over, or there is none.
            if hasattr(module, 'check_dataset_labels'):
                try:
                    module.check_dataset_labels()
                except ValueError as error:
                    raise ValueError(f'{name}: {error}') from error


def _check_state(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that a run can go on with all of what a checkpoint holds.

    The engine would leave out what has another name or another shape, with a
    warning. Parts for which that is no harm, such as a LastBatchStore, see to
    it themselves.
    """
    state = checkpoint.get('state_dict', {})
    try:
        found = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f'a run cannot go on from {path}: {error}') from error
    others = dict(
        missing=[
            key
            for key in found.missing_keys
            # Old checkpoints have none.
            if not key.endswith('num_batches_tracked')
        ],
        unexpected=found.unexpected_keys,
    )
    # Without any weights, it is for the hooks to say what else is missing.
    if state and any(others.values()):
        listed = '; '.join(
            f'{len(keys)} {what}: {", ".join(keys[:4])}'
            + (', ...' if len(keys) > 4 else '')
            for what, keys in others.items()
            if keys
        )
        raise ValueError(
            f'a run cannot go on from {path}, whose weights are those of '
            f'another model ({listed})'
        )


def _check_start(model: nn.Module, checkpoint: dict, path: str) -> None:
    """Check that some of the weights to start from are the model's."""
    found = checkpoint.get('state_dict', checkpoint)
    names = [key.removeprefix('module.') for key in found]
    known = model.state_dict()
    if names and not any(name in known for name in names):
        raise ValueError(
            f'load_from: the model has none of the weights of {path}, such '
            f'as {names[0]!r}; its own are called {next(iter(known))!r} and '
            f'the like'
        )


def _check_optimizers(config: dict, model: nn.Module) -> None:
    """Check the optimizers of several students."""
    constructor = config.get('constructor')
    if isinstance(constructor, str):
        constructor = OPTIM_WRAPPER_CONSTRUCTORS.get(constructor)
    if constructor is PerStudentOptimWrapperConstructor:
        build_optim_wrapper(model, config)


def _check_loops(config: Config, model: nn.Module) -> None:
    """Check that loops exist, and have to do with as many students."""
    for name in ('train_cfg', 'val_cfg', 'test_cfg'):
        if config.get(name) is None:
            continue
        kind = _find(
            LOOPS,
            config[name].get('type'),
            f'loop for {name}',
            config[name].get('_scope_'),
        )
        if name == 'train_cfg':
            continue
        if isinstance(kind, type) and issubclass(kind, StudentsLoop):
            check_students(model)
        elif name == 'val_cfg' and hasattr(model, 'predict_students'):
            print_log(
                f'of the students {", ".join(model.students)} only '
                f'{model.main_student} is validated; all of them with '
                f"val_cfg=dict(type='StudentsValLoop')",
                'current',
                level=logging.WARNING,
            )


def _check_metrics(config: Config) -> None:
    """Check that metrics exist."""
    for name in ('val_evaluator', 'test_evaluator'):
        found = config.get(name) or []
        for item in found if isinstance(found, (list, tuple)) else [found]:
            # An evaluator's config has its metrics inside.
            if isinstance(item, dict) and 'metrics' not in item:
                _find(
                    METRICS,
                    item.get('type'),
                    f'metric for {name}',
                    item.get('_scope_'),
                )


def _check_views(model: nn.Module) -> None:
    views = getattr(getattr(model, 'data_preprocessor', None), 'views', 1)
    count = len(getattr(model, 'students', ())) or 1
    if views not in (1, count):
        raise ValueError(
            f'data_preprocessor makes views={views} of each image, but '
            f'{type(model).__name__} has {count} '
            + ('student' if count == 1 else f'students: set {count}, or 1')
        )


def _checking_hooks(config: Config) -> list[Any]:
    """Build the hooks that check what a run is given."""
    hooks, places = [], {}
    named = {
        **{
            f'default_hooks.{name}': item
            for name, item in (config.get('default_hooks') or {}).items()
        },
        **{
            f'custom_hooks.{place}': item
            for place, item in enumerate(config.get('custom_hooks') or [])
        },
    }
    for name, item in named.items():
        if not isinstance(item, dict):
            continue
        kind = _find(
            HOOKS, item.get('type'), f'hook for {name}', item.get('_scope_')
        )
        if hasattr(kind, 'check_inputs'):
            if kind in places:
                raise ValueError(
                    f'{kind.__name__} is there twice, as {places[kind]} and '
                    f'as {name}'
                )
            places[kind] = name
            hooks.append(build_part(name, HOOKS, dict(item)))
    return hooks


def fail(error: Exception) -> NoReturn:
    """End the program with one message from each machine.

    A :class:`FloatingPointError` is the matter of a single process, and is
    told by any.

    Args:
        error (Exception): What went wrong.
    """
    local_rank = os.environ.get(
        'SLURM_LOCALID', os.environ.get('LOCAL_RANK', '0')
    )
    # A loss is not finite in one process first.
    alone = isinstance(error, FloatingPointError)
    if local_rank != '0' and not alone:
        # The launcher stops all processes when one ends: let the one with
        # the message be the first.
        time.sleep(10)
        sys.exit(1)
    # str() of a KeyError is the repr of its message.
    text = error.args[0] if isinstance(error, KeyError) else error
    sys.exit(f'error: {text}')

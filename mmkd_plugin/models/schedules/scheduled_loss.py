"""Losses whose weight is a schedule."""

import copy
from collections.abc import Callable
from typing import Optional

from mmengine.registry import MODELS, TASK_UTILS
from torch import nn

from mmkd_plugin.utils.build import build_part


def build_schedule(where: str, config: dict) -> Callable:
    """Build a schedule.

    Args:
        where (str): What it is called in the config, for messages.
        config (dict): Its config, such as ``dict(type='LinearRamp', ...)``.

    Returns:
        Callable: A function of epoch and iteration.

    Raises:
        ValueError: If the config is wrong or that of no schedule.
    """
    schedule = build_part(where, TASK_UTILS, config)
    if not callable(schedule):
        raise ValueError(
            f'{where}: a {type(schedule).__name__} is no schedule: it cannot '
            f'be called with epoch and iteration'
        )
    return schedule


def build_scheduled_loss(
    where: str, config: dict
) -> tuple[nn.Module, Optional[Callable]]:
    """Build a loss, and the schedule of its weight, if it has one.

    Args:
        where (str): What the loss is called in the config, for messages.
        config (dict): Config of the loss; ``loss_weight`` may be that of a
            schedule.

    Returns:
        tuple[nn.Module, Callable or None]: The loss, with the weight 1 where
        there is a schedule, and the schedule.

    Raises:
        ValueError: If a config is wrong.
    """
    weight = isinstance(config, dict) and config.get('loss_weight')
    if not isinstance(weight, dict):
        return build_part(where, MODELS, config), None
    schedule = build_schedule(f'{where}: loss_weight', weight)
    config = copy.copy(config)
    config['loss_weight'] = 1.0
    return build_part(where, MODELS, config), schedule

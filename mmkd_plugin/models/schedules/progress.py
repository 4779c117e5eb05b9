"""How far the running training is."""

import re
from typing import NamedTuple, Optional

from mmengine.logging import MessageHub

from mmkd_plugin.utils.checks import check_count


class Progress(NamedTuple):
    """Epoch and iteration, counted from 0; None where there is no count."""

    epoch: Optional[int] = None
    iteration: Optional[int] = None


def running_progress() -> Progress:
    """Ask the engine's message hub, where the runner keeps both up to date.

    To the hub an iteration-based loop is one epoch that never ends, so its
    epoch is None. The config of the run tells it from a training of a single
    epoch; in a runner that was built without a config, that is taken for
    iteration-based too, since a weight that waits for the next epoch in vain
    would go unnoticed.

    Returns:
        Progress: Where the running training is.

    Raises:
        RuntimeError: If no runner is training.
    """
    hub = MessageHub.get_current_instance()
    iteration = hub.get_info('iter')
    # The counts of a run that is over are still there.
    if hub.get_info('loop_stage') is None or iteration is None:
        raise RuntimeError(
            'a loss weight has a schedule, but no runner of mmengine is '
            'training: in a loop of your own, call '
            'model.distiller.set_progress(epoch=..., iteration=...) before '
            'each step, or model.set_progress where there is no distiller'
        )
    epoch = hub.get_info('epoch')
    if hub.get_info('max_epochs') == 1 and not _is_epoch_based(hub):
        epoch = None
    return Progress(epoch, iteration)


def _is_epoch_based(hub: MessageHub) -> bool:
    # The config as text; what is nested is indented.
    setting = re.search(
        r'^train_cfg = .*?(?=^\w|\Z)', hub.get_info('cfg', ''), re.M | re.S
    )
    return setting is not None and bool(
        re.search(r'\b(by_epoch=True|max_epochs=)', setting[0])
    )


class Clock:
    """What schedules go by: the runner, unless a time has been set.

    Examples:
        >>> clock = Clock()
        >>> clock.set(epoch=3)
        >>> clock.now()
        Progress(epoch=3, iteration=None)
    """

    def __init__(self) -> None:
        self._progress = None

    def set(
        self, epoch: Optional[int] = None, iteration: Optional[int] = None
    ) -> None:
        """Set the time of a training without a runner.

        Args:
            epoch (int, optional): The epoch, counted from 0. Defaults to
                None; then no schedule may go by it.
            iteration (int, optional): The iteration since the start of
                training, counted from 0. Defaults to None, likewise.
                Without both, the runner counts again.

        Raises:
            ValueError: If one is a negative number or no integer.
        """
        progress = Progress(epoch, iteration)
        for name, value in progress._asdict().items():
            if value is not None:
                check_count(name, value, least=0)
        self._progress = None if progress == Progress() else progress

    def now(self) -> Progress:
        """Get the time.

        Returns:
            Progress: What was set, else where the running training is.

        Raises:
            RuntimeError: If nothing was set and no runner is training.
        """
        if self._progress is not None:
            return self._progress
        return running_progress()

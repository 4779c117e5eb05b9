"""The names of the teacher's classes."""

from collections.abc import Sequence

from mmengine.runner import Runner


def validation_classes(runner: Runner) -> Sequence[str]:
    """Get the names of the classes from the validation set.

    Args:
        runner (Runner): The runner of a training process.

    Returns:
        Sequence[str]: The names; empty where they are not known.
    """
    if runner.val_loop is None:
        return ()
    dataset = runner.val_loop.dataloader.dataset
    return getattr(dataset, 'metainfo', {}).get('classes', ())

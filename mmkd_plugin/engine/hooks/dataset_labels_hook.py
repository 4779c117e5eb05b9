"""Hand the labels of the training set to the losses that need them."""

from typing import Any, Optional

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model
from torch import nn
from torch.utils.data import Dataset

from mmkd_plugin.datasets.dataset_labels import dataset_labels


@HOOKS.register_module()
class DatasetLabelsHook(Hook):
    """Give the labels of the whole training set to parts of the model.

    A loss is built from its config alone. Some, as
    :class:`~mmkd_plugin.models.CRDLoss`, which takes its negatives from other
    classes, have to know the class of every image beforehand. Before
    training, this hook hands the labels to each module of the model that has
    a method ``set_dataset_labels``; no image is read for it. The labels are
    those of the data set, in its order, whatever a sampler selects.

    Raises:
        ValueError: Before training, if the data set has no labels, if no
            module takes them, or if one finds that they do not fit.
    """

    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        """Hand over the labels.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: As the class.
        """
        self._give(
            get_ori_model(runner.model), runner.train_dataloader.dataset
        )

    def check_inputs(
        self,
        model: nn.Module,
        dataset: Dataset,
        loader: dict,
        checkpoint: Optional[dict] = None,
    ) -> None:
        """Check what a run is given, before anything is written.

        The last image is read: labels are found by its index, which some
        wrappers take from the data set inside.

        Args:
            model (nn.Module): The model.
            dataset (Dataset): The training set.
            loader (dict): Config of its loader.
            checkpoint (dict, optional): What the run goes on from. Defaults
                to None.

        Raises:
            ValueError: As the class, or if the index of an image is not its
                place in the data set.
        """
        self._give(model, dataset)
        place = len(dataset) - 1
        found = _sample_idx(dataset[place])
        if found not in (None, place):
            raise ValueError(
                f'DatasetLabelsHook needs a data set whose sample_idx is the '
                f'place of an image in it, but image {place} of '
                f'{type(dataset).__name__} has {found}: use the data set '
                f'inside, with a sampler for a part of it'
            )

    @staticmethod
    def _give(model: nn.Module, dataset: Dataset) -> None:
        takers = {
            name: module
            for name, module in model.named_modules()
            if hasattr(module, 'set_dataset_labels')
        }
        if not takers:
            raise ValueError(
                f'DatasetLabelsHook has labels to give, but got a '
                f'{type(model).__name__} in which no module takes any: leave '
                f'the hook out'
            )
        labels = dataset_labels(dataset, DatasetLabelsHook.__name__)
        for name, module in takers.items():
            try:
                module.set_dataset_labels(labels)
            except ValueError as error:
                raise ValueError(f'{name}: {error}') from error


def _sample_idx(item: Any) -> Optional[int]:
    """Get the index that an image of a data set has, if it has one."""
    sample = item.get('data_samples') if isinstance(item, dict) else None
    found = getattr(sample, 'sample_idx', None)
    return None if found is None else int(found)

"""Make what is random in the models depend on the iteration alone."""

import random
from typing import Optional

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmkd_plugin.utils.counter_rng import counter_rng


@HOOKS.register_module()
class ReseedHook(Hook):
    """Seed PyTorch, NumPy and Python from seed, rank and iteration.

    Checkpoints of mmengine hold no state of random generators. With this
    hook, dropout, mixup and the like draw the same numbers in a resumed run
    as in an uninterrupted one.
    """

    priority = 'VERY_HIGH'

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
    ) -> None:
        """Seed.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch. Defaults to None.
        """
        # Stream 0 augments the images.
        rng = counter_rng(runner.seed or 0, get_rank(), runner.iter, stream=1)
        torch.manual_seed(int(rng.integers(2**63)))
        # mmpretrain's mixup and cutmix draw from NumPy.
        np.random.seed(int(rng.integers(2**32)))
        random.seed(int(rng.integers(2**63)))

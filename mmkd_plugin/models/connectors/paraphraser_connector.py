"""Paraphrase a teacher's feature map: a factor from which it can be made."""

import os
from typing import Optional, Union

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from mmkd_plugin.utils.checkpoint import load_strict, load_weights
from mmkd_plugin.utils.checks import check_count, check_map, nearest

from .factor_layers import factor_layers


@MODELS.register_module()
class ParaphraserConnector(BaseModule):
    """The paraphraser of factor transfer, an autoencoder of a feature map.

    Three 3x3 convolutions make the factor, three transposed ones make the
    map of it again, each with a leaky ReLU. It belongs on the teacher's
    side, in two stages.

    In the first, it learns to reconstruct the teacher's map; no student
    takes part, hence ``student_trainable=False`` of the algorithm::

        connectors=dict(paraphraser=dict(
            type='ParaphraserConnector', in_channels=64, out_channels=32)),
        distill_losses=dict(loss_paraphrase=dict(type='L1Loss')),
        loss_forward_mappings=dict(loss_paraphrase=dict(
            preds_S=dict(from_student=False, recorder='map',
                         connector='paraphraser', connector_idx=1),
            preds_T=dict(from_student=False, recorder='map')))

    In the second, it gets the weights of the first one's checkpoint, is
    frozen, and returns the factor alone, for ``FTLoss``::

        connectors=dict(
            paraphraser=dict(
                type='ParaphraserConnector', in_channels=64, out_channels=32,
                checkpoint='work_dirs/first_stage/epoch_5.pth',
                prefix='distiller.connectors.paraphraser'),
            translator=dict(type='TranslatorConnector', in_channels=64,
                            out_channels=32)),
        distill_losses=dict(loss_ft=dict(type='FTLoss', loss_weight=500.0)),
        loss_forward_mappings=dict(loss_ft=dict(
            preds_S=dict(from_student=True, recorder='map',
                         connector='translator'),
            preds_T=dict(from_student=False, recorder='map',
                         connector='paraphraser')))

    Reference:
        Kim et al., Paraphrasing Complex Network: Network Compression via
        Factor Transfer, NeurIPS 2018, https://arxiv.org/abs/1802.04977,
        section 3.1, with the layers of the released code
        (https://github.com/Jangho-Kim/Factor-Transfer-pytorch), which has no
        normalisation: ``out_channels`` is half of ``in_channels``, that is
        a paraphrase rate of 0.5. The code trains it with the L1 distance
        (``L1Loss``), for 6 epochs of CIFAR-10; MMRazor's configs, and the
        paper (from recollection, not verified), take the squared distance
        (``MSELoss``).

    Args:
        in_channels (int): Channels of the teacher.
        out_channels (int): Channels of the factor.
        norm_cfg (dict, optional): Config of a normalisation layer behind
            each convolution. Defaults to None.
        checkpoint (str, optional): Checkpoint with trained weights, loaded
            strictly. With it, the paraphraser is frozen: its parameters
            have no gradient, it stays in eval mode, and it returns the
            factor alone. Defaults to None.
        prefix (str): What stands in front of the paraphraser's keys in the
            checkpoint: ``'distiller.connectors.<name>'`` in that of a
            first stage. Defaults to ``''``, a file with its weights alone.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a width is no positive integer, if there is a
            ``prefix`` without a ``checkpoint``, or if that does not fit.

    Examples:
        >>> import torch
        >>> paraphraser = ParaphraserConnector(16, 8)
        >>> factor, made = paraphraser(torch.zeros(2, 16, 4, 4))
        >>> factor.shape, made.shape
        (torch.Size([2, 8, 4, 4]), torch.Size([2, 16, 4, 4]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        norm_cfg: Optional[dict] = None,
        checkpoint: Optional[str] = None,
        prefix: str = '',
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = check_count('in_channels', in_channels)
        check_count('out_channels', out_channels)
        if checkpoint is None and prefix:
            raise ValueError(
                f'prefix is a part of the keys of a checkpoint, but got '
                f'{prefix!r} without a checkpoint'
            )
        self.checkpoint = checkpoint
        self.prefix = prefix
        widths = [in_channels, in_channels, out_channels, out_channels]
        self.encoder = factor_layers(widths, norm_cfg)
        self.decoder = factor_layers(widths[::-1], norm_cfg, transposed=True)
        if checkpoint is not None:
            self._load()
            self.requires_grad_(False)
            self.train(False)

    def _load(self) -> None:
        path = os.fspath(self.checkpoint)
        weights = load_weights(path)
        if self.prefix:
            head = self.prefix.removesuffix('.') + '.'
            taken = {
                key.removeprefix(head): value
                for key, value in weights.items()
                if key.startswith(head)
            }
            if not taken:
                # All that its keys can be cut to.
                known = {
                    key[:at]
                    for key in weights
                    for at, letter in enumerate(key)
                    if letter == '.'
                }
                raise ValueError(
                    f'prefix must be the head of keys of {path}, but got '
                    f'{self.prefix!r}; {nearest(self.prefix, known)}'
                )
            weights = taken
        load_strict(self, weights, 'paraphraser', path)

    def init_weights(self) -> None:
        """Initialise the weights, or load them where there is a checkpoint."""
        super().init_weights()
        if self.checkpoint is not None:
            self._load()

    def train(self, mode: bool = True) -> 'ParaphraserConnector':
        """Set the mode, unless the paraphraser is frozen.

        Args:
            mode (bool): Training or evaluation. Defaults to True.

        Returns:
            ParaphraserConnector: This connector.
        """
        return super().train(mode and self.checkpoint is None)

    def forward(self, feature: Tensor) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Make the factor, and the map of it again.

        Args:
            feature (Tensor): Shape ``(N, in_channels, H, W)``.

        Returns:
            Tensor or tuple[Tensor, Tensor]: The factor, shape ``(N,
            out_channels, H, W)``, and the reconstructed map, shape of the
            feature. Where the paraphraser is frozen, the factor alone.

        Raises:
            ValueError: If ``feature`` is no map of that width.
        """
        check_map('feature', feature, self.in_channels)
        factor = self.encoder(feature)
        if self.checkpoint is not None:
            return factor
        return factor, self.decoder(factor)

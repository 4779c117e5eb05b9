"""Generator and discriminator of MosaicKD, and how they are trained."""

import math
from collections.abc import Sequence
from contextlib import (
    AbstractContextManager,
    ExitStack,
    nullcontext,
)
from typing import NoReturn, Optional

import torch
from mmengine.device import get_device
from mmengine.dist import (
    all_gather_object,
    all_reduce,
    all_reduce_params,
    get_rank,
    is_distributed,
)
from mmengine.optim import CosineAnnealingLR
from mmengine.registry import MODELS, OPTIMIZERS
from torch import Tensor, nn

from mmkd_plugin.models.generators import PatchDiscriminator
from mmkd_plugin.models.losses.mosaic_objective import (
    PATCH_REDUCTIONS,
    adversarial_loss,
    alignment_loss,
    balance_loss,
    patch_discriminator_loss,
    patch_generator_loss,
)
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    nearest,
)
from mmkd_plugin.utils.counter_rng import counter_rng
from mmkd_plugin.utils.finite import broken_networks

from .network_state import in_mode, share_buffers, untouched

MODES = ('eval', 'train')
AMP_DTYPES = ('float16', 'bfloat16')
# ReseedHook has 1, the augmentation 0.
_NOISE_STREAM = 2
OFFICIAL = dict(
    adv_weight=1.0,
    align_weight=1.0,
    local_weight=1.0,
    balance_weight=10.0,
    patch_reduction='patch_sum',
    balance_base=2.0,
    weigh_discriminator=True,
    student_mode='train',
    sample_mode='train',
    isolate_players=False,
)
# The weights are those of the official code at its 8x8 patches, in the
# default's units: a mean over the patches, and nats.
MENDED = dict(
    adv_weight=1.0,
    align_weight=1.0,
    local_weight=64.0,
    balance_weight=10.0 / math.log(2),
    patch_reduction='mean',
    balance_base=math.e,
    weigh_discriminator=False,
    student_mode='eval',
    sample_mode='eval',
    isolate_players=True,
)


class MosaicPlayers:
    r"""Own MosaicKD's generator and discriminator, and train them.

    Reference:
        Fang et al., Mosaicking to Distill: Knowledge Distillation from
        Out-of-Domain Data, NeurIPS 2021, https://arxiv.org/abs/2110.15094.
        Written from a description of the authors' training script, which
        has no licence.

    An update makes images of noise once. The discriminator learns to tell
    their patches from those of real out-of-domain images. Then the generator
    learns, on the same images and with the updated discriminator, to
    minimise

    .. math::
        w_{adv} L_{adv} + w_{align} L_{align} + w_{local} L_{local}
        + w_{balance} L_{balance}

    (:mod:`mmkd_plugin.models.losses.mosaic_objective`). The student's own
    steps, on images of :meth:`sample`, are not made here; the official
    script makes five an update.

    Each difference to that script is an option. Those that default to None
    take the mended value or, with ``compat='official'``, that of the script;
    one that is given holds in either case. The forms that are NaN at large
    logit gaps there are mended in both, as they are equal elsewhere.

    In several processes, each makes images of its own noise and judges its
    own real images. Gradients are averaged over the processes before each
    step, which is what ``DistributedDataParallel`` does, and so are the
    running statistics after it; the networks stay the same everywhere. As in
    the official script, the balance of classes is that of one process.

    Args:
        generator (dict): Config of a network in ``MODELS`` like
            :class:`~mmkd_plugin.models.generators.MosaicGenerator`: noise of
            ``sample_latent`` in, images in [0, 1] out, and the attributes
            ``image_size`` and ``out_channels``.
        discriminator (dict): Config of a network in ``MODELS``: normalised
            images in, one or more logits an image out.
        mean (Sequence[float]): The teacher's normalisation, one number for
            each channel in the order of the generator's.
        std (Sequence[float]): Its standard deviations.
        pixel_max (float): The white that ``mean`` and ``std`` are for: 255
            for those of a data preprocessor, 1 for images in [0, 1].
            Defaults to 255.
        generator_optimizer (dict, optional): Config in ``OPTIMIZERS``.
            Defaults to None, which is Adam with ``lr=1e-3`` and
            ``betas=(0.5, 0.999)``, as published.
        discriminator_optimizer (dict, optional): Same for the discriminator.
            Defaults to None, the same Adam.
        schedule_length (int, optional): Updates in which both learning rates
            fall to 0 along a cosine, where they stay; the published runs
            take that of the whole run. Defaults to None: constant.
        seed (int): Of the noise, which is drawn on the CPU and depends on
            this seed, on the rank of the process and on how often noise was
            drawn before, on nothing else. Defaults to 0.
        amp_dtype (str, optional): ``'float16'`` or ``'bfloat16'`` for mixed
            precision: forward passes are made in autocast, and with
            ``'float16'`` each optimizer has a gradient scaler. Defaults to
            None.
        compat (str, optional): ``'official'``, or None for the mended form.
            Defaults to None.
        adv_weight (float, optional): Weight of the student's disagreement
            with the teacher. Defaults to 1.
        align_weight (float, optional): Weight of the entropy of the
            teacher's answers. Defaults to 1.
        local_weight (float, optional): Weight of the patches' realism.
            Defaults to 64 on the mean over patches, and to 1 on the official
            sum, which is the same at the 8x8 patches of 32x32 images.
        balance_weight (float, optional): Weight of the balance of classes.
            Defaults to 10 in bits (official), and to the same in nats,
            14.43.
        patch_reduction (str, optional): ``'mean'`` over the patches, so that
            the meaning of ``local_weight`` depends neither on the resolution
            nor on the size of a patch; or ``'patch_sum'``, the official sum,
            which in the discriminator's loss also divides by the number of
            fake images where fewer are real.
        balance_base (float, optional): Base of the logarithm of the balance:
            e, as in all other terms, or the official 2.
        weigh_discriminator (bool, optional): Whether the discriminator's
            loss is multiplied with ``local_weight``. That is official; Adam
            hardly sees it, but with other optimizers the generator's weight
            would change the discriminator's step. False by default.
        student_mode (str, optional): Mode of the student in the generator's
            step: ``'eval'``, the network that is going to be used, or the
            official ``'train'``, its answer by batch statistics.
        sample_mode (str, optional): Mode of the generator in :meth:`sample`:
            ``'eval'``, which changes no state and makes an image that does
            not depend on the others; or the official ``'train'``, which
            moves the running statistics, which no one uses there.
        isolate_players (bool, optional): Whether the generator's step leaves
            teacher, student and discriminator as they are: no gradients of
            their weights, which is also faster, and no moving running
            statistics, in train mode either. No gradients are left behind at
            the end. Officially, gradients pile up in the teacher, and in the
            others until their own step clears them; the discriminator's and
            the student's statistics take the generator's step in. True by
            default.

    Attributes:
        generator (nn.Module): The network that makes images.
        discriminator (nn.Module): The network that judges patches.
        optimizers (dict[str, Optimizer]): ``'generator'`` and
            ``'discriminator'``.
        schedules (dict[str, CosineAnnealingLR]): Same keys; empty without
            ``schedule_length``.
        scalers (dict[str, GradScaler]): Same keys; enabled with
            ``amp_dtype='float16'`` alone.
        class_counts (Tensor): How often the teacher put synthetic images
            into each class, int64, shape ``(K,)``; empty before the first
            update. Who reads it sets it to zero.

    Raises:
        ValueError: If an option is wrong, or if the networks or the
            normalisation do not fit together.

    Example:
        >>> players = MosaicPlayers(
        ...     dict(type='MosaicGenerator', base_channels=4),
        ...     dict(type='PatchDiscriminator', base_channels=4),
        ...     mean=(129.3, 124.1, 112.4),
        ...     std=(68.2, 65.4, 70.4),
        ... )
        >>> players.sample(2).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        pixel_max: float = 255.0,
        generator_optimizer: Optional[dict] = None,
        discriminator_optimizer: Optional[dict] = None,
        schedule_length: Optional[int] = None,
        seed: int = 0,
        amp_dtype: Optional[str] = None,
        compat: Optional[str] = None,
        adv_weight: Optional[float] = None,
        align_weight: Optional[float] = None,
        local_weight: Optional[float] = None,
        balance_weight: Optional[float] = None,
        patch_reduction: Optional[str] = None,
        balance_base: Optional[float] = None,
        weigh_discriminator: Optional[bool] = None,
        student_mode: Optional[str] = None,
        sample_mode: Optional[str] = None,
        isolate_players: Optional[bool] = None,
    ) -> None:
        if compat is not None:
            check_choice('compat', compat, ('official',))
        unset = OFFICIAL if compat else MENDED

        def number(name: str, value: Optional[float]) -> float:
            value = unset[name] if value is None else value
            return check_number(name, value, least=0)

        def choice(name: str, value: Optional[str], known: tuple) -> str:
            value = unset[name] if value is None else value
            return check_choice(name, value, known)

        def flag(name: str, value: Optional[bool]) -> bool:
            return check_flag(name, unset[name] if value is None else value)

        self.adv_weight = number('adv_weight', adv_weight)
        self.align_weight = number('align_weight', align_weight)
        self.local_weight = number('local_weight', local_weight)
        self.balance_weight = number('balance_weight', balance_weight)
        self.patch_reduction = choice(
            'patch_reduction', patch_reduction, PATCH_REDUCTIONS
        )
        if balance_base is None:
            balance_base = unset['balance_base']
        self.balance_base = check_number('balance_base', balance_base, above=1)
        self.weigh_discriminator = flag(
            'weigh_discriminator', weigh_discriminator
        )
        self.student_mode = choice('student_mode', student_mode, MODES)
        self.sample_mode = choice('sample_mode', sample_mode, MODES)
        self.isolate_players = flag('isolate_players', isolate_players)
        check_count('seed', seed, least=0)
        if schedule_length is not None:
            check_count('schedule_length', schedule_length)
        if amp_dtype is not None:
            check_choice('amp_dtype', amp_dtype, AMP_DTYPES)
            amp_dtype = getattr(torch, amp_dtype)
        self._amp_dtype = amp_dtype

        self.generator = build_part('generator', MODELS, generator)
        self.discriminator = build_part('discriminator', MODELS, discriminator)
        for net in (self.generator, self.discriminator):
            if getattr(net, 'init_cfg', None):
                net.init_weights()
            net.train()
        self._check_networks()
        self._mean = self._statistic('mean', mean, pixel_max)
        self._std = self._statistic('std', std, pixel_max, above=0)

        published = dict(type='Adam', lr=1e-3, betas=(0.5, 0.999))
        self.optimizers = {
            name: build_part(
                f'{name}_optimizer',
                OPTIMIZERS,
                {**(config or published), 'params': [*net.parameters()]},
            )
            for name, net, config in (
                ('generator', self.generator, generator_optimizer),
                ('discriminator', self.discriminator, discriminator_optimizer),
            )
        }
        self.schedules = {}
        if schedule_length is not None:
            self.schedules = {
                name: CosineAnnealingLR(
                    optimizer,
                    T_max=schedule_length,
                    # One more than its length, to arrive at 0.
                    end=schedule_length + 1,
                    by_epoch=False,
                )
                for name, optimizer in self.optimizers.items()
            }
        self.scalers = {
            name: torch.amp.GradScaler(
                get_device(), enabled=amp_dtype == torch.float16
            )
            for name in self.optimizers
        }
        self._seed, self._draws = seed, 0
        self.class_counts = torch.zeros(0, dtype=torch.long)

    def _check_networks(self) -> None:
        judge, size = self.discriminator, self.generator.image_size
        # Of other networks, the first update says it.
        if not isinstance(judge, PatchDiscriminator):
            return
        judge.check_image_size(size, size)
        channels = self.generator.out_channels
        if judge.in_channels != channels:
            raise ValueError(
                f'the generator makes images of {channels} channels, but the '
                f'discriminator takes {judge.in_channels}'
            )

    def _statistic(
        self, name: str, values: Sequence[float], pixel_max: float, **bounds
    ) -> Tensor:
        check_number('pixel_max', pixel_max, above=0)
        values = [check_number(name, float(v), **bounds) for v in values]
        channels = self.generator.out_channels
        if len(values) != channels:
            raise ValueError(
                f'{name} must have a number for each of the {channels} '
                f'channels of the images, but got {values}'
            )
        # Rounded to the dtype of the images only where they are normalised.
        values = torch.tensor(values, dtype=torch.double) / pixel_max
        return values[:, None, None]

    def normalise(self, images: Tensor) -> Tensor:
        """Give images the teacher's normalisation.

        Args:
            images (Tensor): In [0, 1], shape ``(N, C, H, W)``.

        Returns:
            Tensor: Same shape and dtype.
        """
        return (images - self._mean.to(images)) / self._std.to(images)

    def denormalise(self, images: Tensor) -> Tensor:
        """Take the teacher's normalisation away: see :meth:`normalise`."""
        return images * self._std.to(images) + self._mean.to(images)

    def _latent(self, count: Optional[int], z: Optional[Tensor]) -> Tensor:
        if (count is None) == (z is None):
            raise ValueError(
                'either a count of images or their noise z must be given, '
                f'but got {"neither" if z is None else "both"}'
            )
        if z is not None:
            return z
        # Not on the device: the same noise everywhere. A resumed run goes on
        # on every rank, though a checkpoint holds the state of one.
        rng = counter_rng(
            self._seed, get_rank(), self._draws, stream=_NOISE_STREAM
        )
        self._draws += 1
        source = torch.Generator().manual_seed(int(rng.integers(2**63)))
        return self.generator.sample_latent(count, generator=source)

    def _autocast(self) -> AbstractContextManager:
        if self._amp_dtype is None:
            return nullcontext()
        device = next(self.generator.parameters()).device
        return torch.autocast(device.type, self._amp_dtype)

    @torch.no_grad()
    def sample(
        self, count: Optional[int] = None, *, z: Optional[Tensor] = None
    ) -> Tensor:
        """Make images, without a gradient.

        Args:
            count (int, optional): How many. Defaults to None: as many as
                there is noise.
            z (Tensor, optional): Noise, shape ``(N, latent_dim)``. Defaults
                to None: it is drawn.

        Returns:
            Tensor: In [0, 1], shape ``(N, C, H, W)``.

        Raises:
            ValueError: If both or neither are given.
        """
        z = self._latent(count, z)
        with in_mode(self.generator, self.sample_mode), self._autocast():
            return self.generator(z)

    def update(
        self,
        teacher: nn.Module,
        student: nn.Module,
        real: Tensor,
        *,
        count: Optional[int] = None,
        z: Optional[Tensor] = None,
    ) -> dict[str, Tensor]:
        """Make one step of the discriminator, then one of the generator.

        Modes of all networks are afterwards what they were, also after an
        exception; so is ``requires_grad`` with ``isolate_players``.

        Args:
            teacher (nn.Module): Normalised images in, logits of shape
                ``(N, K)`` or ``(N, K, H, W)`` out. It is in eval mode here.
            student (nn.Module): Same. It must not be wrapped for
                distributed training, as this is no step of its own.
            real (Tensor): Real images, normalised with the teacher's
                statistics, without augmentation in the published runs, shape
                ``(N', C, H, W)``, on the players' device.
            count (int, optional): How many images to make. Defaults to None:
                as many as are real.
            z (Tensor, optional): Their noise, shape ``(N, latent_dim)``.
                Defaults to None: it is drawn.

        Returns:
            dict[str, Tensor]: Scalars without a graph: ``loss_d``, and
            ``loss_g`` with its unweighted terms ``loss_adv``,
            ``loss_align``, ``loss_local`` and ``loss_balance``; of the
            teacher's answers to the synthetic images ``confidence``, the
            mean of the highest probability, and ``class_entropy`` of the
            histogram of its classes (see :func:`class_entropy`).

        Raises:
            ValueError: If the real images or the logits have a wrong shape,
                or if both ``count`` and ``z`` are given.
            FloatingPointError: If a loss is not finite, before the step that
                it would break, in all processes if in one; whose loss it is
                and which networks are broken already is in the message.
        """
        if z is None and count is None:
            count = len(real)
        z = self._latent(count, z)
        # Sampling in train mode moves them in each process alone.
        share_buffers(self.generator)
        with (
            in_mode(self.generator, 'train'),
            in_mode(self.discriminator, 'train'),
        ):
            with self._autocast():
                images = self.normalise(self.generator(z))
            if not real.is_floating_point() or (
                real.shape[1:] != images.shape[1:]
            ):
                raise ValueError(
                    f'real images must be normalised and of shape '
                    f'(N, {", ".join(map(str, images.shape[1:]))}), but got '
                    f'{real.dtype} of shape {tuple(real.shape)}'
                )
            terms = self._step_discriminator(images.detach(), real)
            terms |= self._step_generator(images, teacher, student)
        all_reduce_params(
            [
                buffer
                for net in (self.generator, self.discriminator)
                for buffer in net.buffers()
                if buffer.is_floating_point()
            ],
            op='mean',
        )
        for schedule in self.schedules.values():
            schedule.step()
        return {name: term.detach() for name, term in terms.items()}

    def _step_discriminator(
        self, fake: Tensor, real: Tensor
    ) -> dict[str, Tensor]:
        # One after the other: each has batch statistics of its own.
        with self._autocast():
            judged = self.discriminator(fake), self.discriminator(real)
        loss = patch_discriminator_loss(
            *judged, reduction=self.patch_reduction
        )
        if self.weigh_discriminator:
            loss = self.local_weight * loss
        self._step('discriminator', loss, dict(loss_d=loss))
        return dict(loss_d=loss)

    def _step_generator(
        self, images: Tensor, teacher: nn.Module, student: nn.Module
    ) -> dict[str, Tensor]:
        with ExitStack() as stack:
            if self.isolate_players:
                for net in (teacher, student, self.discriminator):
                    stack.enter_context(untouched(net))
            stack.enter_context(in_mode(teacher, 'eval'))
            stack.enter_context(in_mode(student, self.student_mode))
            with self._autocast():
                preds_T, preds_S = teacher(images), student(images)
                judged = self.discriminator(images)
            terms = dict(
                loss_adv=adversarial_loss(preds_S, preds_T),
                loss_align=alignment_loss(preds_T),
                loss_local=patch_generator_loss(
                    judged, reduction=self.patch_reduction
                ),
                loss_balance=balance_loss(preds_T, base=self.balance_base),
            )
            loss = (
                self.adv_weight * terms['loss_adv']
                + self.align_weight * terms['loss_align']
                + self.local_weight * terms['loss_local']
                + self.balance_weight * terms['loss_balance']
            )
            nets = dict(teacher=teacher, student=student)
            self._step('generator', loss, terms, **nets)
        return dict(loss_g=loss, **terms, **self._answers(preds_T.detach()))

    def _answers(self, preds_T: Tensor) -> dict[str, Tensor]:
        """Count classes, and measure confidence and balance."""
        dtype = torch.promote_types(preds_T.dtype, torch.float32)
        probability = preds_T.softmax(dim=1, dtype=dtype)
        confidence, predicted = probability.max(dim=1)
        classes = preds_T.shape[1]
        counts = predicted.flatten().bincount(minlength=classes)
        if len(self.class_counts) != classes:
            self.class_counts = torch.zeros_like(counts)
        # On the device: nothing waits for it.
        self.class_counts = self.class_counts.to(counts.device) + counts
        return dict(
            confidence=confidence.mean(),
            class_entropy=class_entropy(counts).to(dtype),
        )

    def _step(
        self, name: str, loss: Tensor, terms: dict, **nets: nn.Module
    ) -> None:
        finite = loss.isfinite().long()
        everywhere = finite.clone()
        all_reduce(everywhere, 'min')
        if not everywhere:
            self._stop(name, terms, bool(finite), **nets)
        optimizer, scaler = self.optimizers[name], self.scalers[name]
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        grads = [
            parameter.grad
            for group in optimizer.param_groups
            for parameter in group['params']
            if parameter.grad is not None
        ]
        all_reduce_params(grads, op='mean')
        scaler.step(optimizer)
        scaler.update()
        if self.isolate_players:
            optimizer.zero_grad()

    def _stop(
        self, name: str, terms: dict, finite: bool, **nets: nn.Module
    ) -> NoReturn:
        # Each process has images of its own: the fault may be in one alone,
        # but all have to stop, and all say what it is.
        reasons = all_gather_object(
            None if finite else self._reason(name, terms, **nets)
        )
        rank, reason = next(
            (rank, text) for rank, text in enumerate(reasons) if text
        )
        if is_distributed():
            reason += f' in the process {rank}'
        raise FloatingPointError(reason)

    def _reason(self, name: str, terms: dict, **nets: nn.Module) -> str:
        broken = broken_networks(
            dict(
                generator=self.generator,
                discriminator=self.discriminator,
                **nets,
            )
        )
        if 'generator' in broken:
            # Its images spoil the statistics of the others.
            broken = ['generator']
        reason = f"the {name}'s loss"
        names = [key for key, term in terms.items() if not term.isfinite()]
        if names:
            reason += f' ({", ".join(names)})'
        if broken:
            reason += (
                f', because of weights that are not finite in the '
                f'{" and the ".join(broken)},'
            )
        return reason

    def to(self, *args, **kwargs) -> 'MosaicPlayers':
        """Move networks and optimizers, as ``nn.Module.to`` does.

        Args:
            *args: Device, dtype or both.
            **kwargs: The same by name.

        Returns:
            MosaicPlayers: Itself.
        """
        self.generator.to(*args, **kwargs)
        self.discriminator.to(*args, **kwargs)
        for optimizer in self.optimizers.values():
            # Loading puts the state where the parameters are.
            optimizer.load_state_dict(optimizer.state_dict())
        return self

    def _parts(self) -> dict:
        return dict(
            generator=self.generator,
            discriminator=self.discriminator,
            **{f'{k}_optimizer': v for k, v in self.optimizers.items()},
            **{f'{k}_schedule': v for k, v in self.schedules.items()},
            **{
                f'{k}_scaler': v
                for k, v in self.scalers.items()
                if v.is_enabled()
            },
        )

    def state_dict(self) -> dict:
        """Get everything that a resumed run needs.

        Returns:
            dict: States of networks, optimizers, schedules, scalers, of the
            noise and of the count of classes: tensors and plain Python
            objects. As usual, tensors are the live ones, not copies.
        """
        states = {k: part.state_dict() for k, part in self._parts().items()}
        return dict(
            states,
            noise=dict(seed=self._seed, draws=self._draws),
            class_counts=self.class_counts,
        )

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on where another run has stopped.

        A schedule goes on with the length that it had there.

        Args:
            state_dict (dict): Of :meth:`state_dict`.

        Raises:
            ValueError: If parts are missing or unknown, before any is
                loaded.
            RuntimeError: If the weights of a network do not fit.
        """
        # Mixed precision may begin or end with the resumed run: scalers then
        # start anew.
        parts = {
            name: part
            for name, part in self._parts().items()
            if name in state_dict or not name.endswith('_scaler')
        }
        state_dict = {
            name: value
            for name, value in state_dict.items()
            if name in parts or not name.endswith('_scaler')
        }
        wanted = {*parts, 'noise', 'class_counts'}
        missing = sorted(wanted - state_dict.keys())
        if missing:
            raise ValueError(
                f"the state of MosaicKD's players lacks {missing}; it has "
                f'{sorted(state_dict)}'
            )
        for name in state_dict:
            if name not in wanted:
                raise ValueError(
                    f"the state of MosaicKD's players has {name!r}, which "
                    f'these do not have; {nearest(name, wanted)}'
                )
        for name, part in parts.items():
            part.load_state_dict(state_dict[name])
        self._seed = state_dict['noise']['seed']
        self._draws = state_dict['noise']['draws']
        self.class_counts = state_dict['class_counts']


def class_entropy(counts: Tensor) -> Tensor:
    """Measure how evenly a histogram is filled.

    Args:
        counts (Tensor): How often each class occurs, shape ``(K,)``.

    Returns:
        Tensor: Its entropy as a share of the highest one that as many
        samples N can have, the log of K or, if they are fewer, of N: 1
        where they are spread as evenly as can be, 0 where all are of one
        class. A scalar, float32.
    """
    total = counts.sum()
    share = counts / total.clamp(min=1)
    entropy = torch.special.entr(share).sum()
    return entropy / total.clamp(min=2, max=max(len(counts), 2)).log()

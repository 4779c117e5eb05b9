"""Put images into the batches that a generator makes meanwhile."""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np
import torch
from mmengine.dist import (
    all_reduce,
    broadcast,
    is_distributed,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm, is_model_wrapper
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkd_plugin.models.data_preprocessors import BatchAugDataPreprocessor
from mmkd_plugin.utils.build import build_part
from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    nearest,
)
from mmkd_plugin.utils.counter_rng import counter_rng

from ..endless_batches import EndlessBatches
from ..mosaic_players import MosaicPlayers, broken_networks, class_entropy
from ..report import (
    FIRST_MOSAIC_PICTURE,
    LATEST_MOSAIC_PICTURE,
    Picked,
    mosaic_figure,
    png,
    render,
    write_file,
)
from .non_finite_loss_hook import stop_not_finite
from .validation_classes import validation_classes

#: Where the hook's state lies in a checkpoint.
STATE_KEY = 'mosaic_generator_hook'
STUDENT_IMAGES = ('both', 'synthetic')
MISSING_STATE = ('error', 'restart')
PLAYERS = ('generator', 'discriminator')
_SET_BY_HOOK = {'mean', 'std', 'pixel_max', 'seed', 'schedule_length'}
# The players' noise has stream 2.
_PICTURE_STREAM = 3
_ORDER_STREAM = 4


@HOOKS.register_module()
class MosaicGeneratorHook(Hook):
    """Distil with images that are made of patches of other domains.

    Reference:
        Fang et al., Mosaicking to Distill: Knowledge Distillation from
        Out-of-Domain Data, NeurIPS 2021, https://arxiv.org/abs/2110.15094.
        Written from a description of the authors' training script, which
        has no licence.

    The hook owns :class:`~mmkd_plugin.engine.mosaic_players.MosaicPlayers`,
    a generator and a discriminator. Every ``student_steps`` iterations it
    updates them: the discriminator learns to tell patches of synthetic images
    from those of real out-of-domain ones, the generator to make images whose
    patches look real, that the teacher is sure of, that are evenly spread
    over the classes, and that the student does not understand yet. Before
    each iteration it puts new synthetic images into the batch of real ones.
    What the student learns from these is the distiller's business. Both
    players are in the student's memory format (``channels_last``).

    One iteration of the official script is ``student_steps`` iterations
    here, the update of the players first.

    The data loader gives the out-of-domain images. The data preprocessor must
    be a :class:`~mmkd_plugin.models.BatchAugDataPreprocessor`. Its statistics
    are the teacher's and hold for all images; the official script gives
    out-of-domain images those of their own data set before the student's
    steps. It augments the real images of the student's steps only.

    The players' state is in each checkpoint, under
    ``'mosaic_generator_hook'``: networks, optimizers, schedules, gradient
    scalers, position in the noise. A resumed run makes the same images as an
    uninterrupted one.

    Log and report show the terms of the last update as ``mosaic.loss_d`` and
    the like, the teacher's confidence in the synthetic images and their
    balance (:meth:`MosaicPlayers.update`). Pictures of synthetic images, real
    ones and the patches of both go to the visualizer as ``mosaic``; the first
    and the latest one are ``mosaic/first.png`` and ``mosaic/latest.png`` in
    the work dir.

    Args:
        generator (dict): Config of the generator, see ``MosaicPlayers``.
        discriminator (dict): Config of the discriminator.
        student_steps (int): Iterations, that is, steps of the student, an
            update of the players. Defaults to 5, as published.
        batch_size (int, optional): How many images are made for an update,
            and for a step of the student. Defaults to None: as many as the
            batch has real ones.
        student_images (str): ``'both'``, synthetic and real images, as in
            the official script, or ``'synthetic'`` ones alone. Defaults to
            ``'both'``.
        real_dataloader (dict, optional): Config of a loader, with a sampler
            that ends, of the real images for the discriminator. The official
            script has such a one, which shuffles the same images in another
            order. Defaults to None: those of the student's batch before
            their augmentation, which costs no second loader.
        anneal (bool): Whether the players' learning rates fall to 0 along a
            cosine in the course of the run, as published. Defaults to True.
        sync_bn (Sequence[str], optional): Which of ``'generator'`` and
            ``'discriminator'`` take batch statistics over all processes;
            needs accelerators. Defaults to None: none, or, with
            ``compat='official'``, the discriminator where there are several.
        missing_state (str): What to do when the run is resumed from a
            checkpoint without the hook's state: ``'error'``, or
            ``'restart'``, which starts players anew beside the trained
            student. Defaults to ``'error'``.
        picture_interval (int): Epochs from one picture to the next; also
            those after which the classes of the synthetic images are looked
            at; at the end of the run both are done anyway. Defaults to 1.
        num_pictures (int): Images a row of the picture. Defaults to 10.
        collapse_threshold (float): Below which entropy of their classes, as a
            share of the highest one possible, a warning says that the
            synthetic images have collapsed to few classes. Defaults to 0.5.
        **players: Options of ``MosaicPlayers``, ``compat`` and the weights
            of the losses among them. Normalisation, seed and the length of
            the schedule are set by the hook. Mixed precision is that of the
            run's optimizer wrapper where ``amp_dtype`` is not given.

    Raises:
        ValueError: If an option is wrong or does not fit the run; see
            :meth:`check_inputs`.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        generator: dict,
        discriminator: dict,
        *,
        student_steps: int = 5,
        batch_size: Optional[int] = None,
        student_images: str = 'both',
        real_dataloader: Optional[dict] = None,
        anneal: bool = True,
        sync_bn: Optional[Sequence[str]] = None,
        missing_state: str = 'error',
        picture_interval: int = 1,
        num_pictures: int = 10,
        collapse_threshold: float = 0.5,
        **players,
    ) -> None:
        check_count('student_steps', student_steps)
        if batch_size is not None:
            # Batch statistics of one image are none.
            check_count('batch_size', batch_size, least=2)
        check_choice('student_images', student_images, STUDENT_IMAGES)
        check_flag('anneal', anneal)
        if sync_bn is None:
            official = players.get('compat') == 'official'
            sync_bn = ('discriminator',) if official else ()
            self._sync_bn_asked = False
        else:
            self._sync_bn_asked = True
        for name in sync_bn:
            check_choice('sync_bn', name, PLAYERS)
        check_choice('missing_state', missing_state, MISSING_STATE)
        check_count('picture_interval', picture_interval)
        check_count('num_pictures', num_pictures)
        check_number('collapse_threshold', collapse_threshold, least=0, most=1)
        known = {
            name
            for kind in (type(self), MosaicPlayers)
            for name in inspect.signature(kind).parameters
        } - {'players'}
        for name, value in players.items():
            if name in _SET_BY_HOOK:
                raise ValueError(
                    f'{name} is set by MosaicGeneratorHook itself, but got '
                    f'{value!r}'
                )
            if name not in known:
                raise ValueError(
                    f'MosaicGeneratorHook has no option {name!r}; '
                    f'{nearest(name, known - _SET_BY_HOOK)}'
                )
        self.generator = generator
        self.discriminator = discriminator
        self.student_steps = student_steps
        self.batch_size = batch_size
        self.student_images = student_images
        self.real_dataloader = real_dataloader
        self.anneal = anneal
        self.sync_bn = tuple(sync_bn)
        self.missing_state = missing_state
        self.picture_interval = picture_interval
        self.num_pictures = num_pictures
        self.collapse_threshold = collapse_threshold
        self._options = players
        self.players: Optional[MosaicPlayers] = None
        self._restored: Optional[dict] = None
        self._algorithm: Optional[nn.Module] = None
        self._real: Optional[EndlessBatches] = None
        self._terms: dict[str, float] = {}
        self._shown: Optional[Tensor] = None
        self._seed = 0

    # Before a run ------------------------------------------------------

    def check_inputs(
        self,
        model: nn.Module,
        dataset: Sequence,
        loader: dict,
        checkpoint: Optional[dict] = None,
    ) -> None:
        """Check what can be checked before a run writes anything.

        Args:
            model (nn.Module): The algorithm.
            dataset (Sequence): The out-of-domain images.
            loader (dict): Config of their loader.
            checkpoint (dict, optional): What the run is resumed from.
                Defaults to None.

        Raises:
            ValueError: If the model has no teacher, another preprocessor, an
                unknown normalisation, or losses that need labels; if players
                and images do not fit together; if there are fewer images than
                a batch has; or if the checkpoint lacks the players' state.
        """
        state = None if checkpoint is None else checkpoint.get(STATE_KEY)
        players = self._build(model, **self._parts_of(state))
        self._check_size('out-of-domain', dataset, loader)
        self._check_images(model, dataset, players)
        if self.real_dataloader is not None:
            real = self._real_dataset(dataset, loader)
            self._check_size('real', real, self.real_dataloader)
            self._check_images(model, real, players)
        if checkpoint is not None:
            self._load(players, state)

    def _parts_of(self, state: Optional[dict]) -> dict:
        """Guess the options that a run adds, to build what it builds."""
        # Of any length: a schedule that is loaded has its own.
        options = dict(schedule_length=1) if self.anneal else {}
        # The optimizer wrapper is not known here; the start of the run looks
        # at it.
        scaled = state is not None and 'generator_scaler' in state['players']
        if scaled and self._options.get('amp_dtype') is None:
            options['amp_dtype'] = 'float16'
        return options

    def _real_dataset(self, dataset: Sequence, loader: dict) -> Sequence:
        used, loader = loader.get('dataset'), self.real_dataloader
        if not isinstance(loader, dict):
            raise ValueError(
                f'real_dataloader must be a config, but got {loader!r}'
            )
        missing = [
            key for key in ('dataset', 'sampler') if loader.get(key) is None
        ]
        if missing:
            raise ValueError(
                f'real_dataloader is a whole config of its own: it needs '
                f'{missing} as well, but got {sorted(loader)}'
            )
        config = loader['dataset']
        if not isinstance(config, dict):
            return config
        if config == used:
            # No need to load the images a second time.
            return dataset
        where = 'real_dataloader.dataset'
        try:
            dataset = build_part(where, DATASETS, copy.deepcopy(config))
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
        # What mmpretrain's data sets raise where files are missing or bad.
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f'{where}: {error}') from error
        return dataset

    @staticmethod
    def _check_size(what: str, dataset: Sequence, loader: dict) -> None:
        size = loader.get('batch_size', 1)
        # Some samplers draw from a part of the images.
        part = (loader.get('sampler') or {}).get('num_samples')
        count = min(len(dataset), part or len(dataset))
        if loader.get('drop_last', False) and count < size:
            raise ValueError(
                f'the data set of {count} {what} images is smaller than a '
                f'batch of {size}'
            )

    def _check_images(
        self, model: nn.Module, dataset: Sequence, players: MosaicPlayers
    ) -> None:
        first = dataset[0]
        if not isinstance(first, dict) or 'inputs' not in first:
            return
        batch = {key: [value] for key, value in first.items()}
        side = players.generator.image_size
        for training in (False, True):
            images = model.data_preprocessor(batch, training)['inputs']
            height, width = images.shape[-2:]
            if (height, width) != (side, side):
                raise ValueError(
                    f'the generator makes images of {side}x{side}, but the '
                    f'{"training" if training else "real"} images are '
                    f'{height}x{width}'
                    + (' after augmentation' if training else '')
                )

    def _build(self, model: nn.Module, **options) -> MosaicPlayers:
        """Check a model and build the players for it."""
        name = type(self).__name__
        for part in ('teacher', 'student'):
            if not isinstance(getattr(model, part, None), nn.Module):
                raise ValueError(
                    f'{name} needs a model with one teacher and one student, '
                    f'such as SingleTeacherDistill, but '
                    f'{type(model).__name__} has no {part}'
                )
        preprocessor = model.data_preprocessor
        if not isinstance(preprocessor, BatchAugDataPreprocessor):
            raise ValueError(
                f'{name} needs a BatchAugDataPreprocessor, which puts '
                f'synthetic images into the batch and takes the same options, '
                f'but got {type(preprocessor).__name__}'
            )
        if not preprocessor._enable_normalize:
            raise ValueError(
                "the teacher's normalisation is unknown: give mean and std to "
                'data_preprocessor (mean=[0, 0, 0], std=[1, 1, 1] if the '
                'teacher takes pixels of 0 to 255 as they are)'
            )
        if getattr(model, 'calculate_student_loss', False):
            raise ValueError(
                'synthetic images have no labels: set '
                'calculate_student_loss=False'
            )
        # Neither what the run draws next nor the players depend on each other.
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed accelerators as well.
            torch.default_generator.manual_seed(options.get('seed', 0))
            return MosaicPlayers(
                copy.deepcopy(self.generator),
                copy.deepcopy(self.discriminator),
                mean=preprocessor.mean.flatten().tolist(),
                std=preprocessor.std.flatten().tolist(),
                **{**copy.deepcopy(self._options), **options},
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep the players' state.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): The loaded checkpoint.
        """
        self._restored = checkpoint.get(STATE_KEY)

    def before_train(self, runner: Runner) -> None:
        """Build the players, or go on with those of a checkpoint.

        Args:
            runner (Runner): The runner.

        Raises:
            ValueError: As :meth:`check_inputs`.
        """
        model = runner.model
        if is_model_wrapper(model):
            model = model.module
        self._algorithm = model
        seed = torch.tensor(runner.seed or 0)
        # With diff_rank_seed, each process has another one.
        broadcast(seed)
        self._seed = seed.item()
        batches = len(runner.train_dataloader)
        if batches == 0:
            raise ValueError(
                f'the data set of {len(runner.train_dataloader.dataset)} '
                f'out-of-domain images is smaller than a batch'
            )
        self._every = batches * self.picture_interval
        options = {}
        if self.anneal:
            # Players that start anew have the rest of the run.
            done = 0 if self._restored else self._updates(runner.iter)
            left = self._updates(runner.max_iters) - done
            options['schedule_length'] = max(left, 1)
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, AmpOptimWrapper) and (
            self._options.get('amp_dtype') is None
        ):
            dtype = wrapper.cast_dtype or torch.float16
            options['amp_dtype'] = str(dtype).removeprefix('torch.')
        players = self._build(model, seed=self._seed, **options)
        self._synchronise_norms(runner, players)
        players.to(
            next(model.student.parameters()).device,
            memory_format=_memory_format(model.student),
        )
        resumed = runner.iter > 0
        if resumed:
            self._load(players, self._restored)
        elif is_main_process():
            # That of an earlier run here would pass for this run's.
            _picture(runner, LATEST_MOSAIC_PICTURE).unlink(missing_ok=True)
        self._restored = None
        self.players = players
        if self.real_dataloader is not None:
            # Not the student's order: samplers draw from seed plus epoch.
            rng = counter_rng(self._seed, 0, 0, stream=_ORDER_STREAM)
            loader = runner.build_dataloader(
                copy.deepcopy(self.real_dataloader),
                seed=int(rng.integers(2**31)),
            )
            self._real = EndlessBatches(loader, self._updates(runner.iter))
        counts = [
            sum(p.numel() for p in getattr(players, name).parameters())
            for name in PLAYERS
        ]
        field = getattr(players.discriminator, 'receptive_field', 'unknown')
        runner.logger.info(
            f'MosaicKD: generator of {counts[0]:,} parameters, discriminator '
            f'of {counts[1]:,}; the patches that it judges (its receptive '
            f'field) have a side of {field} pixels'
        )

    def _updates(self, iterations: int) -> int:
        """Count the updates in the first iterations."""
        return -(-iterations // self.student_steps)

    def _synchronise_norms(
        self, runner: Runner, players: MosaicPlayers
    ) -> None:
        if not self.sync_bn or not is_distributed():
            return
        if next(self._algorithm.student.parameters()).device.type == 'cpu':
            if self._sync_bn_asked:
                raise ValueError(
                    f'sync_bn={list(self.sync_bn)} needs accelerators, but '
                    f'this run is on the CPU'
                )
            runner.logger.warning(
                'batch statistics of the discriminator are those of each '
                'process: to synchronise them needs accelerators'
            )
            return
        for name in self.sync_bn:
            # The normalisations are replaced within the network: its
            # optimizer keeps the parameters.
            convert_sync_batchnorm(getattr(players, name))

    def _load(self, players: MosaicPlayers, state: Optional[dict]) -> None:
        if state is None:
            if self.missing_state == 'restart':
                return
            raise ValueError(
                'the checkpoint to resume from has no state of '
                f"{type(self).__name__}: set missing_state='restart' to "
                f'start generator and discriminator anew'
            )
        try:
            players.load_state_dict(state['players'])
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f'the players of the checkpoint to resume from do not fit '
                f'those of the config: {error}'
            ) from error

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the players' state into a checkpoint.

        Args:
            runner (Runner): The runner.
            checkpoint (dict): What is to be saved.

        Raises:
            FloatingPointError: If weights of the players are not finite.
        """
        if self.players is None:
            return
        nets = {name: getattr(self.players, name) for name in PLAYERS}
        broken = broken_networks(nets)
        if broken:
            stop_not_finite(runner, f'the weights of the {broken[0]}')
        preprocessor = self._algorithm.data_preprocessor
        checkpoint[STATE_KEY] = dict(
            generator=_plain(self.generator),
            mean=preprocessor.mean.flatten().tolist(),
            std=preprocessor.std.flatten().tolist(),
            players=self.players.state_dict(),
        )

    # In a run ----------------------------------------------------------

    def before_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
    ) -> None:
        """Update the players, if it is time, and make images.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch; ``'synthetic'`` is put
                into it. Defaults to None.

        Raises:
            FloatingPointError: If a loss of the players is not finite.
            ValueError: If the batch does not fit.
        """
        if runner.iter % self.student_steps == 0:
            self._update(runner, data_batch)
        elif self._shown is None:
            # Resumed between two updates: the picture may come before one.
            self._shown = self._real_images(data_batch)[: self.num_pictures]
        # As often as the losses, over whose window the log averages them.
        for name, value in self._terms.items():
            runner.message_hub.update_scalar(f'train/mosaic.{name}', value)
        count = self.batch_size or len(data_batch['inputs'])
        players = self.players
        data_batch['synthetic'] = players.normalise(players.sample(count))
        if self.student_images == 'synthetic':
            del data_batch['inputs']

    def _real_images(self, data_batch: dict) -> Tensor:
        """Normalise a batch without augmentation."""
        return self._algorithm.data_preprocessor(data_batch, False)['inputs']

    def _update(self, runner: Runner, data_batch: dict) -> None:
        model, players = self._algorithm, self.players
        source = data_batch if self._real is None else next(self._real)
        real = self._real_images(source)
        self._shown = real[: self.num_pictures]
        if runner.iter == 0 and is_main_process():
            self._draw(runner, FIRST_MOSAIC_PICTURE)
        student = model.student
        own = None
        if not players.isolate_players:
            # The engine clears gradients after a step, not before it.
            own = [p.grad for p in student.parameters()]
            student.zero_grad()
        try:
            terms = players.update(
                model.teacher,
                student,
                real,
                count=self.batch_size or len(real),
            )
        except FloatingPointError as error:
            stop_not_finite(runner, str(error))
        if own is not None:
            for parameter, grad in zip(student.parameters(), own, strict=True):
                parameter.grad = grad
        # One transfer for all of them.
        values = torch.stack([*terms.values()]).tolist()
        self._terms = dict(zip(terms, values, strict=True))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Optional[dict] = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Draw, and look at the classes, if it is time.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Index of the batch in the epoch.
            data_batch (dict, optional): The batch. Defaults to None.
            outputs (dict, optional): The loss terms. Defaults to None.

        Raises:
            FloatingPointError: If the student's loss is not finite, as the
                synthetic images are not.
        """
        self._check_synthetic(runner, data_batch, outputs)
        if not (
            self.every_n_train_iters(runner, self._every)
            or self.is_last_train_iter(runner)
        ):
            return
        counts = self.players.class_counts.clone()
        self.players.class_counts.zero_()
        all_reduce(counts, 'sum')
        if not is_main_process():
            return
        # That of a single class is -0.
        entropy = abs(class_entropy(counts).item())
        if counts.any() and entropy < self.collapse_threshold:
            runner.logger.warning(
                f'mode collapse: the classes of the synthetic images have '
                f'{100 * entropy:.0f} % of the highest entropy possible, '
                f'less than {100 * self.collapse_threshold:.0f} %; the most '
                f'frequent one is {self._most_frequent(runner, counts)}. '
                f'A higher balance_weight spreads them'
            )
        self._draw(runner, LATEST_MOSAIC_PICTURE)

    def _check_synthetic(
        self,
        runner: Runner,
        data_batch: Optional[dict],
        outputs: Optional[dict],
    ) -> None:
        # The engine reads the loss anyway; the images are looked at only to
        # find out whose fault it is.
        loss = torch.as_tensor((outputs or {}).get('loss', 0.0))
        if loss.isfinite().all():
            return
        if not data_batch['synthetic'].isfinite().all():
            stop_not_finite(runner, "the generator's images")

    def _most_frequent(self, runner: Runner, counts: Tensor) -> str:
        index = int(counts.argmax())
        name = _name(validation_classes(runner), index)
        return f'{name} ({100 * counts[index] / counts.sum():.0f} %)'

    def _draw(self, runner: Runner, file: str) -> None:
        players = self.players
        rng = counter_rng(self._seed, 0, 0, stream=_PICTURE_STREAM)
        source = torch.Generator().manual_seed(int(rng.integers(2**63)))
        z = players.generator.sample_latent(
            self.num_pictures, generator=source
        )
        statistics = copy.deepcopy(list(players.generator.buffers()))
        images = players.sample(z=z)
        # Sampling in train mode moves them.
        for buffer, before in zip(
            players.generator.buffers(), statistics, strict=True
        ):
            buffer.copy_(before)
        classes = validation_classes(runner)
        epoch = (runner.iter + 1) // len(runner.train_dataloader)
        figure = mosaic_figure(
            self._pick(players.normalise(images), classes),
            self._pick(self._shown, classes),
            getattr(
                players.discriminator, 'receptive_field', images.shape[-1]
            ),
            'before training'
            if file == FIRST_MOSAIC_PICTURE
            else f'epoch {epoch}',
            columns=self.num_pictures,
        )
        image = render(figure)
        write_file(_picture(runner, file), png(image))
        runner.visualizer.add_image('mosaic', image, step=runner.iter)

    @torch.no_grad()
    def _pick(self, images: Tensor, classes: Sequence[str]) -> list[Picked]:
        """Give images the teacher's labels."""
        pixels = self.players.denormalise(images.float()).clamp(0, 1)
        pixels = pixels.mul(255).round().byte().permute(0, 2, 3, 1).cpu()
        logits = self._algorithm.teacher(images)
        if logits.dim() > 2:
            # A class for each pixel.
            return [Picked(image.numpy()) for image in pixels]
        score, label = logits.float().log_softmax(dim=1).max(dim=1)
        return [
            Picked(image.numpy(), _name(classes, index), -value)
            for image, index, value in zip(
                pixels, label.tolist(), score.tolist(), strict=True
            )
        ]


def _picture(runner: Runner, file: str) -> Path:
    return Path(runner.work_dir) / 'mosaic' / file


def _memory_format(net: nn.Module) -> torch.memory_format:
    """Find out whether a network's convolutions are in channels-last."""
    # Those of one pixel, or of one channel, are in both formats.
    last = any(
        weight.dim() == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in net.parameters()
    )
    return torch.channels_last if last else torch.contiguous_format


def _name(classes: Sequence[str], index: int) -> str:
    return str(classes[index]) if index < len(classes) else str(index)


def _plain(config):
    """Turn a config into what any program can read from a checkpoint."""
    if isinstance(config, dict):
        return {str(key): _plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [_plain(value) for value in config]
    if isinstance(config, np.generic):
        return config.item()
    return config

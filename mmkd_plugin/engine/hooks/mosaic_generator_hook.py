"""Put images into the batches that a generator makes meanwhile."""

import copy
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch
from mmengine.dist import (
    all_reduce,
    broadcast,
    is_distributed,
    is_main_process,
)
from mmengine.hooks import Hook
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmpretrain.utils import get_ori_model
from torch import Tensor, nn

from mmkd_plugin.utils.checks import (
    check_choice,
    check_count,
    check_flag,
    check_number,
    nearest,
)
from mmkd_plugin.utils.counter_rng import counter_rng
from mmkd_plugin.utils.finite import broken_networks

from ..endless_batches import EndlessBatches
from ..mosaic_inputs import (
    check_algorithm,
    check_images,
    check_size,
    check_statistics,
    real_dataset,
)
from ..mosaic_picture import mosaic_picture
from ..mosaic_players import MosaicPlayers, class_entropy
from ..mosaic_state import STATE_KEY, pack_state
from ..network_state import memory_format_of, share_buffers
from ..report import (
    FIRST_MOSAIC_PICTURE,
    LATEST_MOSAIC_PICTURE,
    class_name,
    png,
    write_file,
)
from .non_finite_loss_hook import stop_not_finite
from .validation_classes import validation_classes

STUDENT_IMAGES = ('both', 'synthetic')
MISSING_STATE = ('error', 'restart')
PLAYERS = ('generator', 'discriminator')
_SET_BY_HOOK = {'mean', 'std', 'pixel_max', 'seed', 'schedule_length'}
# The players' noise has stream 2, that of the pictures 3.
_ORDER_STREAM = 4
_ADVICE = (
    'Lower the learning rates of the players (generator_optimizer, '
    'discriminator_optimizer) or the weight of the term that is named'
)


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
    are the teacher's and hold for all images (but see ``real_statistics``).
    It augments the real images of the student's steps only.

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
        real_statistics (dict, optional): ``mean`` and ``std``, in the units of
            the preprocessor's, that the real images of the student's steps
            are normalised with. In the official script these are those of
            the out-of-domain data set, so that the teacher sees its images
            otherwise than any in its own training. Defaults to None: the
            preprocessor's, with ``compat='official'``, too.
        anneal (bool): Whether the players' learning rates fall to 0 along a
            cosine in the course of the run, as published. Defaults to True.
        sync_bn (Sequence[str], optional): Which of ``'generator'`` and
            ``'discriminator'`` take batch statistics over all processes;
            needs accelerators (not run so far). Defaults to None: none, or,
            with ``compat='official'``, the discriminator where there are
            several.
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
        real_statistics: Optional[dict] = None,
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
        if real_statistics is not None:
            check_statistics(real_statistics)
            if student_images == 'synthetic':
                raise ValueError(
                    "real_statistics are for student_images='both', but got "
                    "'synthetic'"
                )
        check_flag('anneal', anneal)
        if sync_bn is not None:
            if isinstance(sync_bn, str) or not isinstance(sync_bn, Sequence):
                raise ValueError(
                    f'sync_bn must be a list of {PLAYERS}, but got {sync_bn!r}'
                )
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
        self.real_statistics = real_statistics
        self.anneal = anneal
        self.sync_bn = sync_bn
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
        # Of any length: a schedule that is loaded has its own.
        options = dict(schedule_length=1) if self.anneal else {}
        players = self._build(model, **options)
        side = players.generator.image_size
        check_size('out-of-domain', dataset, loader)
        check_images(model, dataset, side)
        if self.real_dataloader is not None:
            real = real_dataset(self.real_dataloader, dataset, loader)
            check_size('real', real, self.real_dataloader)
            check_images(model, real, side)
        if checkpoint is not None:
            self._load(players, checkpoint.get(STATE_KEY))

    def _build(self, model: nn.Module, **options) -> MosaicPlayers:
        """Check a model and build the players for it."""
        check_algorithm(model)
        preprocessor = model.data_preprocessor
        for name, values in (self.real_statistics or {}).items():
            if len(values) != preprocessor.mean.numel():
                raise ValueError(
                    f'{name} of real_statistics must have as many numbers as '
                    f'that of data_preprocessor, '
                    f'{preprocessor.mean.numel()}, but got {values!r}'
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
        self._algorithm = model = get_ori_model(runner.model)
        seed = torch.tensor(runner.seed or 0)
        # With diff_rank_seed, each process has another one.
        broadcast(seed)
        self._seed = seed.item()
        batches = len(runner.train_dataloader)
        if batches == 0:
            loader = runner.train_dataloader
            raise ValueError(
                f'{len(loader.sampler)} out-of-domain images a process are '
                f'fewer than a batch of {loader.batch_size}'
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
            memory_format=memory_format_of(model.student),
        )
        resumed = runner.iter > 0
        if resumed:
            self._load(players, self._restored)
            # Those of the last update, for the log.
            self._terms = dict((self._restored or {}).get('terms', {}))
            if not is_main_process():
                # The checkpoint has those of the first process.
                players.class_counts.zero_()
            self._warn_of_length(runner, players, options)
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

    @staticmethod
    def _warn_of_length(
        runner: Runner, players: MosaicPlayers, options: dict
    ) -> None:
        for schedule in players.schedules.values():
            if schedule.T_max != options['schedule_length']:
                runner.logger.warning(
                    f'the learning rates of generator and discriminator '
                    f'reach 0 after {schedule.T_max} updates, as in the run '
                    f'that is resumed; this run makes '
                    f'{options["schedule_length"]}'
                )
                return

    def _updates(self, iterations: int) -> int:
        """Count the updates in the first iterations."""
        return -(-iterations // self.student_steps)

    def _synchronise_norms(
        self, runner: Runner, players: MosaicPlayers
    ) -> None:
        official = self._options.get('compat') == 'official'
        names = self.sync_bn
        if names is None:
            names = ('discriminator',) if official else ()
        if not names or not is_distributed():
            return
        if next(self._algorithm.student.parameters()).device.type == 'cpu':
            if self.sync_bn:
                raise ValueError(
                    f'sync_bn={list(self.sync_bn)} needs accelerators, but '
                    f'this run is on the CPU'
                )
            runner.logger.warning(
                'batch statistics of the discriminator are those of each '
                'process: to synchronise them needs accelerators'
            )
            return
        for name in names:
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
            what = f'the weights of the {broken[0]}'
            stop_not_finite(runner, what, _ADVICE)
        checkpoint[STATE_KEY] = pack_state(
            self.generator,
            self._algorithm.data_preprocessor,
            self.players,
            self._terms,
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
        if self.real_statistics is not None:
            data_batch['real_statistics'] = self.real_statistics

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
        # They have a part in the update, and each process has moved its own.
        share_buffers(student)
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
            stop_not_finite(runner, str(error), _ADVICE)
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
        entropy = class_entropy(counts).item()
        if counts.any() and entropy < self.collapse_threshold:
            runner.logger.warning(
                f'mode collapse: the classes of the synthetic images have '
                f'{100 * entropy:.0f} % of the highest entropy that '
                f'{counts.sum()} images can have, '
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
            stop_not_finite(runner, "the generator's images", _ADVICE)

    def _most_frequent(self, runner: Runner, counts: Tensor) -> str:
        index = int(counts.argmax())
        name = class_name(validation_classes(runner), index)
        return f'{name} ({100 * counts[index] / counts.sum():.0f} %)'

    def _draw(self, runner: Runner, file: str) -> None:
        epoch = (runner.iter + 1) // len(runner.train_dataloader)
        first = file == FIRST_MOSAIC_PICTURE
        image = mosaic_picture(
            self.players,
            self._algorithm.teacher,
            self._shown,
            'before training' if first else f'epoch {epoch}',
            classes=validation_classes(runner),
            columns=self.num_pictures,
            seed=self._seed,
        )
        write_file(_picture(runner, file), png(image))
        runner.visualizer.add_image('mosaic', image, step=runner.iter)


def _picture(runner: Runner, file: str) -> Path:
    return Path(runner.work_dir) / 'mosaic' / file

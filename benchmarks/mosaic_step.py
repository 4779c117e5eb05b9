"""An iteration of MosaicKD against its floor: the same networks without us.

An iteration is one step of the discriminator, one of the generator, and five
of the student, as in the published algorithm. The floor is the forward and
backward passes and optimizer steps that these need, written out in plain
PyTorch with the simplest losses of the same kind, on images that are
normalised already, in either memory format; the faster one counts. Ours is
what mmengine's loop does for each batch, in a real run of the config: loading,
preprocessing, augmentation, the hook, recorders and losses, the log's terms.
All alternate, so that a slow minute of the machine meets all.

Memory is the most that tensors take in an iteration beyond what is there when
it begins: networks, optimizers and the floor's images.

    OMP_NUM_THREADS=2 python benchmarks/mosaic_step.py --rounds 9
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import LOOPS, MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor
from torch.nn import functional as F

from mmkd_plugin.datasets import ArrayImages
from mmkd_plugin.engine.hooks import MosaicGeneratorHook

CONFIG = os.path.join(
    os.path.dirname(__file__),
    '..',
    'configs',
    'mosaickd_wrn402_wrn161_cifar100_ood-cifar10.py',
)
# What else the config hooks in is for the end of an epoch.
HOOKS = ('ReseedHook', 'NonFiniteLossHook')
FORMATS = dict(
    contiguous=torch.contiguous_format,
    channels_last=torch.channels_last,
)
OURS = 'ours'
MIB = 2**20


class Floor:
    """An iteration that does nothing but what the algorithm needs.

    Args:
        hook (MosaicGeneratorHook): Generator and discriminator, and how many
            steps the student makes.
        algorithm (nn.Module): Teacher and student.
        real (Tensor): Normalised images, shape ``(B, C, H, W)``.
        memory_format (torch.memory_format): Of the networks and images.
    """

    def __init__(
        self,
        hook: MosaicGeneratorHook,
        algorithm: torch.nn.Module,
        real: Tensor,
        memory_format: torch.memory_format,
    ) -> None:
        self.generator, self.discriminator, self.teacher, self.student = (
            copy.deepcopy(net).to(memory_format=memory_format)
            for net in (
                hook.players.generator,
                hook.players.discriminator,
                algorithm.teacher,
                algorithm.student,
            )
        )
        self.real = real.contiguous(memory_format=memory_format)
        self.steps = hook.student_steps
        adam = dict(lr=1e-3, betas=(0.5, 0.999))
        self.optim_g = torch.optim.Adam(self.generator.parameters(), **adam)
        self.optim_d = torch.optim.Adam(
            self.discriminator.parameters(), **adam
        )
        self.optim_s = torch.optim.SGD(
            self.student.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
        )

    def _noise(self) -> Tensor:
        return torch.randn(
            len(self.real), self.generator.latent_dim, device=self.real.device
        )

    @staticmethod
    def _step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def __call__(self) -> None:
        self.generator.train()
        self.discriminator.train()
        fake = self.generator(self._noise())
        judged = self.discriminator(fake.detach())
        loss = F.softplus(judged).mean()
        loss = loss + F.softplus(-self.discriminator(self.real)).mean()
        self._step(loss, self.optim_d)

        self.student.eval()
        self.student.requires_grad_(False)
        self.discriminator.requires_grad_(False)
        log_t = self.teacher(fake).log_softmax(1)
        log_s = self.student(fake).log_softmax(1)
        local = F.softplus(-self.discriminator(fake)).mean()
        probability = log_t.exp()
        mean = probability.mean(0)
        # Alignment and disagreement, a sum over the classes for both.
        loss = -(probability * (2 * log_t - log_s)).sum(1).mean()
        self._step(loss + local + (mean * mean.log()).sum(), self.optim_g)
        self.student.requires_grad_(True)
        self.discriminator.requires_grad_(True)

        self.generator.eval()
        self.student.train()
        for _ in range(self.steps):
            with torch.no_grad():
                fake = self.generator(self._noise())
                images = torch.cat([fake, self.real])
                target = self.teacher(images).softmax(1)
            loss = F.cross_entropy(self.student(images), target)
            self._step(loss, self.optim_s)


@LOOPS.register_module()
class MosaicRounds(EpochBasedTrainLoop):
    """An epoch whose iterations alternate with those of the floors.

    Args:
        runner (Runner): The runner.
        dataloader (DataLoader or dict): What gives two rounds more than are
            timed.
        rounds (int): How many are timed.

    Attributes:
        seconds (dict[str, list[float]]): The times of each side.
        peaks (dict[str, int]): The most memory of each, bytes.
    """

    def __init__(self, runner: Runner, dataloader, rounds: int) -> None:
        super().__init__(runner, dataloader, max_epochs=1)
        self.rounds = rounds
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}

    def run_epoch(self) -> None:
        """Measure."""
        model = self.runner.model
        self.runner.call_hook('before_train_epoch')
        model.train()
        (hook,) = (
            h for h in self.runner.hooks if isinstance(h, MosaicGeneratorHook)
        )
        batches = enumerate(self.dataloader)

        def ours() -> None:
            for index, batch in itertools.islice(batches, hook.student_steps):
                self.run_iter(index, batch)

        # A batch of their own, as ours come one after the other.
        batch = next(iter(self.dataloader))
        real = model.data_preprocessor(batch, False)['inputs']
        sides = {
            name: Floor(hook, model, real, memory_format)
            for name, memory_format in FORMATS.items()
        }
        sides[OURS] = ours
        for step in sides.values():
            step()
        self.seconds = {name: [] for name in sides}
        for _ in range(self.rounds):
            for name, step in sides.items():
                self.seconds[name].append(_seconds(step, real.device))
        self.peaks = {
            name: _peak(step, real.device) for name, step in sides.items()
        }
        self._epoch += 1


def _seconds(step: Callable, device: torch.device) -> float:
    """Get the time that a step takes, seconds."""
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize()


def _peak(step: Callable, device: torch.device) -> int:
    """Get the most memory that a step takes beyond what is there, bytes."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    # The size of a process would have what its allocator keeps, too.
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, 'trace.json')
        profile.export_chrome_trace(file)
        with open(file) as stream:
            events = json.load(stream)['traceEvents']
    changes = sorted(
        (event['ts'], event['args']['Bytes'])
        for event in events
        if event['name'] == '[memory]'
    )
    return max(itertools.accumulate(change for _, change in changes))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--config', default=CONFIG)
    parser.add_argument(
        '--batch', type=int, default=32, help='real images, as many are made'
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    config = Config.fromfile(args.config)
    config.model.pop('teacher_ckpt')
    config.model.teacher = MODELS.build(config.model.teacher)
    hooks = [hook for hook in config.custom_hooks if hook.type in HOOKS]
    mosaic = config.default_hooks.mosaic
    steps, side = mosaic.student_steps, mosaic.generator.image_size
    images = np.random.default_rng(0).integers(
        0,
        256,
        (args.batch * steps * (args.rounds + 2), side, side, 3),
        dtype=np.uint8,
    )
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            model=MODELS.build(config.model),
            work_dir=folder,
            train_dataloader=dict(
                config.train_dataloader,
                dataset=ArrayImages(images),
                batch_size=args.batch,
                sampler=dict(type='DefaultSampler', shuffle=True),
            ),
            train_cfg=dict(type='MosaicRounds', rounds=args.rounds),
            optim_wrapper=config.optim_wrapper,
            param_scheduler=config.param_scheduler,
            default_hooks=dict(config.default_hooks, checkpoint=None),
            custom_hooks=hooks,
            env_cfg=config.env_cfg,
            log_processor=config.log_processor,
            default_scope='mmpretrain',
            log_level='ERROR',
            randomness=config.randomness,
        )
        runner.model.to(args.device)
        runner.train()
    loop = runner.train_loop
    print(
        f'batch {args.batch} synthetic and {args.batch} real, '
        f'{torch.get_num_threads()} threads, {args.device}, torch '
        f'{torch.__version__}, median of {args.rounds}, '
        f'{os.path.basename(args.config)}'
    )
    medians = {k: statistics.median(v) for k, v in loop.seconds.items()}
    floor = min(FORMATS, key=medians.get)
    for name, seconds in medians.items():
        label = f'floor, {name}' if name in FORMATS else name
        print(
            f'{label:<20} {seconds:7.3f} s   peak memory '
            f'{loop.peaks[name] / MIB:8.1f} MiB'
        )
    print(
        f'ratio to the faster floor, {floor}: '
        f'{medians[OURS] / medians[floor]:.3f}  (goal: <= 1.05), of the '
        f'memory {loop.peaks[OURS] / loop.peaks[floor]:.3f}'
    )


if __name__ == '__main__':
    main()

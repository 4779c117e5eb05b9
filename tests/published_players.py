"""The golden cases of MosaicKD: networks with their weights, and a run."""

from collections.abc import Iterator
from typing import Optional

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_plugin.engine.mosaic_players import MosaicPlayers
from mmkd_plugin.models.generators import MosaicGenerator, PatchDiscriminator

#: Of CIFAR-100, as the published runs have them.
MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
#: Steps of the student an update of the players.
STUDENT_STEPS = 5


class Net(BaseModel):
    """The classifier of the published trajectory, or one of pixels."""

    def __init__(self, widths=(4, 6), classes=6, pixels=False):
        super().__init__()
        first, second = widths
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, 2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.fc = nn.Linear(second, classes)
        # What recorders tap: here pixels have their classes in dimension 1.
        self.logits = nn.Identity()
        self.pixels = pixels

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = F.relu(self.bn1(self.conv1(inputs)))
        x = F.relu(self.bn2(self.conv2(x)))
        if self.pixels:
            return self.logits(self.fc(x.movedim(1, 3)).movedim(3, 1))
        return self.logits(self.fc(x.mean((2, 3))))


class StoredNoise(MosaicGenerator):
    """A generator whose noise is known beforehand."""

    noise: Iterator[Tensor]
    count: int

    def sample_latent(
        self, count: int, *, generator: Optional[torch.Generator] = None
    ) -> Tensor:
        if count != self.count:
            # Of a picture.
            return super().sample_latent(count, generator=generator)
        return next(self.noise)


def _load(net: nn.Module, case: dict, prefix: str, names: dict) -> nn.Module:
    """Load what is stored under names with dots replaced by underscores."""
    weights = {}
    for key, value in case.items():
        for theirs, ours in names.items():
            if key.startswith(prefix + theirs):
                # 3_running_mean -> 3.running_mean
                rest = key[len(prefix + theirs) :]
                if ours == 'layers.':
                    rest = rest.replace('_', '.', 1)
                weights[ours + rest] = torch.from_numpy(value).double()
    for name, value in net.state_dict().items():
        if name.endswith('num_batches_tracked'):
            weights[name] = value
    net.double().load_state_dict(weights)
    return net


def published_generator(
    case: dict, prefix: str = 'G__', kind: type = MosaicGenerator
) -> MosaicGenerator:
    """Build the generator of a case, in float64."""
    net = kind(
        latent_dim=case['z'].shape[-1],
        base_channels=len(case[f'{prefix}conv_blocks_7_weight']),
        image_size=int(case['img_size']),
    )
    names = {'l1_0_': 'project.', 'conv_blocks_': 'layers.'}
    return _load(net, case, prefix, names)


def generator_with_noise(case: dict) -> StoredNoise:
    """Build the generator of a trajectory, which draws its noise in order."""
    net = published_generator(case, 'G_before__', StoredNoise)
    net.noise = iter(torch.from_numpy(case['z']))
    net.count = case['z'].shape[1]
    return net


def published_discriminator(
    case: dict, prefix: str = 'D__', **options
) -> PatchDiscriminator:
    """Build the discriminator of a case, in float64."""
    net = PatchDiscriminator(
        base_channels=len(case[f'{prefix}main_0_weight']), **options
    )
    return _load(net, case, prefix, {'main_': 'layers.'})


def published_net(case: dict, prefix: str) -> Net:
    """Build teacher or student of a trajectory, in float64."""
    widths = [len(case[f'{prefix}conv{n}_weight']) for n in (1, 2)]
    net = Net(widths, len(case[f'{prefix}fc_bias'])).double()
    for name, value in net.state_dict().items():
        if not name.endswith('num_batches_tracked'):
            stored = case[prefix + name.replace('.', '_')]
            value.copy_(torch.from_numpy(stored))
    return net


def published_nets_after(case: dict) -> dict[str, nn.Module]:
    """Build the three players of a trajectory as they are at its end."""
    return dict(
        generator=published_generator(case, 'G_after__'),
        discriminator=published_discriminator(case, 'D_after__'),
        student=published_net(case, 'S_after__'),
    )


def published_options(case: dict) -> dict:
    """Get options of the players of a trajectory: networks, steps, weights."""
    adam = dict(type='Adam', lr=float(case['lr_g']), betas=(0.5, 0.999))
    return dict(
        generator=dict(type=generator_with_noise, case=case),
        discriminator=dict(
            type=published_discriminator,
            case=case,
            prefix='D_before__',
            allow_larger_patch=True,
        ),
        generator_optimizer=adam,
        discriminator_optimizer=adam,
        compat='official',
        **{
            f'{name}_weight': float(case[name])
            for name in ('adv', 'align', 'local', 'balance')
        },
    )


def published_sgd(case: dict) -> dict:
    """Get the config of the student's optimizer in a trajectory."""
    names = ('lr', 'momentum', 'weight_decay')
    return dict(type='SGD', **{name: float(case[name]) for name in names})


def plain_epoch(
    case: dict, players: MosaicPlayers, teacher: nn.Module, student: nn.Module
) -> Iterator[dict[str, float]]:
    """Run a trajectory in a plain loop, without the engine.

    Yields after each step of the student what the golden file has in its
    sequences: losses and learning rates of that step, and, at the first of
    five, those of the update before it.
    """
    size = int(case['batch_size'])
    real, ood = (torch.from_numpy(case[key]) for key in ('real', 'ood'))
    options = published_sgd(case)
    options.pop('type')
    sgd = torch.optim.SGD(student.parameters(), **options)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        sgd, int(case['T_max'])
    )
    tau = float(case['T'])
    others = ood.split(size)
    step = 0
    for batch in real.split(size):
        noted = {
            f'lr_{name[0]}': optimizer.param_groups[0]['lr']
            for name, optimizer in players.optimizers.items()
        }
        terms = players.update(teacher, student, batch, count=size)
        assert not any(term.requires_grad for term in terms.values())
        for name, term in terms.items():
            if name.startswith('loss'):
                noted[name] = term.item()
        for _ in range(STUDENT_STEPS):
            fake = players.normalise(players.sample(size))
            images = torch.cat([fake, others[step % len(others)]])
            step += 1
            with torch.no_grad():
                preds_T = teacher(images)
            loss = tau**2 * F.kl_div(
                F.log_softmax(student(images) / tau, 1),
                F.log_softmax(preds_T / tau, 1),
                log_target=True,
                reduction='batchmean',
            )
            noted['lr_s'] = sgd.param_groups[0]['lr']
            noted['loss_s'] = loss.item()
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            yield noted
            noted = {}
        schedule.step()


def check_published_sequences(
    case: dict, noted: list[dict[str, float]]
) -> None:
    """Compare what :func:`plain_epoch` yields with the golden file."""
    seen = {}
    for step in noted:
        for name, value in step.items():
            seen.setdefault(f'{name}_seq', []).append(value)
    assert seen.keys() == {key for key in case if key.endswith('_seq')}
    for name, values in seen.items():
        torch.testing.assert_close(
            torch.tensor(values, dtype=torch.double),
            torch.from_numpy(case[name]),
            rtol=1e-9,
            atol=0,
            msg=lambda text, name=name: f'{name}: {text}',
        )


def check_equal_nets(
    nets: dict[str, nn.Module], expected: dict[str, nn.Module]
) -> None:
    """Compare weights and running statistics, to 1e-9 of the largest one."""
    for part, net in expected.items():
        for name, value in net.state_dict().items():
            if name.endswith('num_batches_tracked'):
                continue
            torch.testing.assert_close(
                nets[part].state_dict()[name],
                value,
                rtol=1e-9,
                atol=1e-9 * value.abs().max().item(),
                msg=lambda text, at=f'{part}.{name}': f'{at}: {text}',
            )

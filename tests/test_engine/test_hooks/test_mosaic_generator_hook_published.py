"""The published trajectory of MosaicKD, by the engine and the hook."""

import copy

import torch
from mmengine.hooks import Hook
from mmengine.registry import MODELS
from published_players import (
    MEAN,
    STD,
    STUDENT_STEPS,
    check_equal_nets,
    check_published_sequences,
    plain_epoch,
    published_net,
    published_nets_after,
    published_options,
    published_sgd,
)
from torch.utils.data import Dataset
from toy_runs import build_runner, net_distillation

from mmkd_plugin.engine.hooks import MosaicGeneratorHook
from mmkd_plugin.engine.mosaic_players import MosaicPlayers
from mmkd_plugin.models import BatchAugDataPreprocessor


@MODELS.register_module()
class NormalisedPreprocessor(BatchAugDataPreprocessor):
    """For images in float64 that are normalised already."""

    def __init__(self, *, mean, std):
        super().__init__(mean=mean, std=std)
        self.mean = torch.tensor(mean, dtype=torch.double)[:, None, None]
        self.std = torch.tensor(std, dtype=torch.double)[:, None, None]

    def _normalise(self, images):
        return images


class NormalisedImages(Dataset):
    """The images of a golden case, in order."""

    def __init__(self, images):
        self.images = torch.from_numpy(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return dict(inputs=self.images[index], sample_idx=index)


def in_order(case, name):
    return dict(
        dataset=NormalisedImages(case[name]),
        batch_size=int(case['batch_size']),
        num_workers=0,
        drop_last=False,
        collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )


class Early(Hook):
    """Notes the learning rates of the players before their update."""

    priority = 'HIGH'

    def __init__(self, hook, noted):
        self.hook = hook
        self.noted = noted

    def before_train_iter(self, runner, batch_idx, data_batch):
        noted = {}
        if runner.iter % STUDENT_STEPS == 0:
            for name, optimizer in self.hook.players.optimizers.items():
                noted[f'lr_{name[0]}'] = optimizer.param_groups[0]['lr']
        noted['lr_s'] = runner.optim_wrapper.get_lr()['lr'][0]
        self.noted.append(noted)


class Late(Hook):
    """Notes losses and weights after each iteration, ends the run."""

    priority = 'VERY_LOW'

    def __init__(self, hook, noted, iterations):
        self.hook = hook
        self.noted = noted
        self.iterations = iterations
        self.nets = []

    def after_train_iter(self, runner, batch_idx, data_batch, outputs):
        noted = self.noted[-1]
        if runner.iter % STUDENT_STEPS == 0:
            scalars = runner.message_hub.log_scalars
            for name, history in scalars.items():
                if name.startswith('train/mosaic.loss'):
                    key = name.removeprefix('train/mosaic.')
                    noted[key] = history.current()
        noted['loss_s'] = outputs['distill.loss_logits'].item()
        self.nets.append(copy.deepcopy(nets(self.hook.players, runner.model)))

    def after_train_epoch(self, runner):
        # The schedules are longer than the trajectory.
        assert runner.iter <= self.iterations
        runner.train_loop.stop_training = runner.iter == self.iterations


def nets(players, algorithm):
    return dict(
        generator=players.generator,
        discriminator=players.discriminator,
        student=getattr(algorithm, 'student', algorithm),
    )


def test_published_epoch_by_the_engine(golden, tmp_path):
    (case,) = golden('mosaic_trajectory')
    updates = len(case['loss_d_seq'])
    t_max = int(case['T_max'])
    mean, std = ([255 * x for x in values] for values in (MEAN, STD))
    teacher = published_net(case, 'T_before__')
    before = copy.deepcopy(teacher)
    model = MODELS.build(
        net_distillation(
            teacher,
            published_net(case, 'S_before__'),
            dict(type='KLDivergence', tau=float(case['T'])),
            type='NormalisedPreprocessor',
            mean=mean,
            std=std,
        )
    )
    hook = MosaicGeneratorHook(
        **published_options(case),
        student_steps=STUDENT_STEPS,
        batch_size=int(case['batch_size']),
        real_dataloader=in_order(case, 'real'),
        # Other than the batch: noise for pictures is not that of the file.
        num_pictures=3,
    )
    noted = []
    late = Late(hook, noted, STUDENT_STEPS * updates)
    # Epochs of three batches: as many as make T_max updates.
    epochs = -(-STUDENT_STEPS * (t_max - 1) // updates) + 1
    runner = build_runner(
        tmp_path,
        model,
        in_order(case, 'ood'),
        [hook, Early(hook, noted), late],
        epochs=epochs,
        optim_wrapper=dict(optimizer=published_sgd(case)),
        param_scheduler=dict(
            type='CosineAnnealingLR', by_epoch=False, T_max=t_max
        ),
        default_hooks=dict(
            checkpoint=None,
            logger=None,
            param_scheduler=dict(
                type='IntervalParamSchedulerHook', interval=STUDENT_STEPS
            ),
        ),
    )
    runner.train()

    check_published_sequences(case, noted)
    check_equal_nets(nets(hook.players, model), published_nets_after(case))
    check_equal_nets(dict(teacher=model.teacher), dict(teacher=before))

    # In between the file has no weights: those of a plain loop, which ends
    # with the file's as well.
    players = MosaicPlayers(
        **published_options(case),
        mean=MEAN,
        std=STD,
        pixel_max=1,
        schedule_length=t_max,
    )
    student = published_net(case, 'S_before__')
    steps = plain_epoch(case, players, before.eval(), student)
    for found, by_file in zip(late.nets, steps, strict=True):
        assert by_file
        check_equal_nets(found, nets(players, student))
    check_equal_nets(nets(players, student), published_nets_after(case))

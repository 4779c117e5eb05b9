"""A resumed run of MosaicKD is the uninterrupted one, bit for bit."""

import pytest
import torch
from toy_runs import (
    PREPROCESSOR,
    build_runner,
    distillation,
    leaves,
    loader,
    make_dataset,
    mosaic_hook,
    save_teacher,
)

AUGMENTED = dict(
    PREPROCESSOR,
    augments=[dict(type='BatchRandomCrop', crop_size=8, padding=1)],
)
# An epoch has three batches, and the players are updated in iterations 1, 6
# and 11: the second epoch ends between two updates.
EPOCHS, STEPS = 4, 5


def run(folder, teacher, hook, load_from=None, epochs=EPOCHS, **kwargs):
    runner = build_runner(
        folder,
        distillation(teacher, data_preprocessor=AUGMENTED),
        loader(make_dataset(10), shuffle=True),
        [hook],
        epochs=epochs,
        load_from=load_from and str(load_from),
        resume=load_from is not None,
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9),
        ),
        param_scheduler=dict(
            type='CosineAnnealingLR', by_epoch=False, T_max=12
        ),
        default_hooks=dict(
            logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
        ),
        **kwargs,
    )
    runner.train()
    return runner


def state(folder, epoch):
    """Read all that a run goes on with."""
    checkpoint = torch.load(folder / f'epoch_{epoch}.pth', weights_only=False)
    names = ('state_dict', 'optimizer', 'param_schedulers')
    names = (*names, 'mosaic_generator_hook')
    return {key: checkpoint[key] for key in names if key in checkpoint}


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(compat='official'),
        dict(anneal=False, student_images='synthetic', batch_size=3),
        dict(real_dataloader=True),
        dict(generator_optimizer=dict(type='SGD', lr=0.1, momentum=0.5)),
    ],
    ids=['default', 'official', 'constant', 'loader', 'sgd'],
)
def test_resumed_run_is_the_same(options, tmp_path):
    if options.get('real_dataloader'):
        others = loader(make_dataset(9, seed=7), shuffle=True)
        options = dict(options, real_dataloader=others)
    teacher = save_teacher(tmp_path / 'teacher.pth')
    # In the middle of an interval of pictures, with counts of classes.
    hook = mosaic_hook(student_steps=STEPS, picture_interval=3, **options)
    one, two = tmp_path / 'straight', tmp_path / 'resumed'
    run(one, teacher, hook)
    run(two, teacher, hook, load_from=one / 'epoch_2.pth')
    expected, found = state(one, 4), state(two, 4)
    assert leaves(found) == leaves(expected)

    # Equal, because it went on; not because nothing moves.
    players = expected['mosaic_generator_hook']['players']
    halfway = state(one, 2)['mosaic_generator_hook']['players']
    assert halfway['class_counts'].sum() > 0
    for name in ('generator', 'discriminator'):
        for key, value in players[name].items():
            if 'weight' in key:
                assert not value.equal(halfway[name][key]), key
    # Of 12 images an update's, and those of 12 steps.
    assert players['noise'] == dict(seed=5, draws=3 + 12)
    assert halfway['noise'] == dict(seed=5, draws=2 + 6)
    if options.get('anneal', True):
        rates = {
            name: players[f'{name}_optimizer']['param_groups'][0]['lr']
            for name in ('generator', 'discriminator')
        }
        # Three updates, in which the rate falls to 0.
        assert rates == pytest.approx(dict.fromkeys(rates, 0), abs=1e-12)
        assert players['generator_schedule']['last_step'] == 3
    else:
        assert 'generator_schedule' not in players


def test_counts_of_classes_go_on(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    hook = mosaic_hook(student_steps=1, picture_interval=4, batch_size=4)
    run(tmp_path / 'one', teacher, hook)
    counts = [
        state(tmp_path / 'one', epoch)['mosaic_generator_hook']['players'][
            'class_counts'
        ].sum()
        for epoch in (1, 2, 3, 4)
    ]
    # Read, and set to zero, at the end of the interval.
    assert counts == [3 * 4, 6 * 4, 9 * 4, 0]


def test_missing_state(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    run(tmp_path / 'one', teacher, mosaic_hook())
    path = tmp_path / 'one' / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint['mosaic_generator_hook']
    torch.save(checkpoint, path)
    with pytest.raises(ValueError, match=r"no state.*missing_state='restart'"):
        run(tmp_path / 'two', teacher, mosaic_hook(), load_from=path)

    runner = run(
        tmp_path / 'two',
        teacher,
        mosaic_hook(student_steps=STEPS, missing_state='restart'),
        load_from=path,
    )
    assert runner.iter == 12
    players = state(tmp_path / 'two', 4)['mosaic_generator_hook']['players']
    # One update in the second half, and six steps.
    assert players['noise']['draws'] == 1 + 6
    # In it, the learning rates fall to 0.
    for name in ('generator', 'discriminator'):
        assert players[f'{name}_schedule']['last_step'] == 1
        (group,) = players[f'{name}_optimizer']['param_groups']
        assert group['lr'] == pytest.approx(0, abs=1e-12)


def test_other_players_in_the_checkpoint(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    run(tmp_path / 'one', teacher, mosaic_hook())
    path = tmp_path / 'one' / 'epoch_2.pth'
    other = mosaic_hook()
    other['generator']['base_channels'] = 2
    match = r'(?s)do not fit those of the config: .*size mismatch.*project'
    with pytest.raises(ValueError, match=match):
        run(tmp_path / 'two', teacher, other, load_from=path)
    match = "do not fit .*has 'generator_schedule', which"
    with pytest.raises(ValueError, match=match):
        run(
            tmp_path / 'three',
            teacher,
            mosaic_hook(anneal=False),
            load_from=path,
        )


@pytest.mark.parametrize('anneal', [True, False])
@pytest.mark.parametrize('epochs', [EPOCHS, EPOCHS + 2])
def test_another_length(epochs, anneal, tmp_path):
    """Of the resumed run."""
    teacher = save_teacher(tmp_path / 'teacher.pth')
    hook = mosaic_hook(student_steps=STEPS, anneal=anneal)
    one, two = tmp_path / 'one', tmp_path / 'two'
    run(one, teacher, hook)
    runner = run(
        two,
        teacher,
        hook,
        load_from=one / 'epoch_2.pth',
        epochs=epochs,
        log_level='WARNING',
    )
    (log,) = (two / runner.timestamp).glob('*.log')
    text = log.read_text()
    longer = anneal and epochs > EPOCHS
    assert text.count('learning rates of generator and discr') == longer
    if longer:
        assert (
            'reach 0 after 3 updates, as in the run that is resumed; this '
            'run makes 4'
        ) in text


def test_starting_from_weights_starts_new_players(tmp_path):
    """That is, ``load_from`` without ``resume``."""
    teacher = save_teacher(tmp_path / 'teacher.pth')
    run(tmp_path / 'one', teacher, mosaic_hook())
    runner = build_runner(
        tmp_path / 'two',
        distillation(teacher, data_preprocessor=AUGMENTED),
        loader(make_dataset(10)),
        [mosaic_hook()],
        load_from=str(tmp_path / 'one' / 'epoch_4.pth'),
        epochs=1,
        default_hooks=dict(
            logger=None, checkpoint=dict(type='SafeCheckpointHook', interval=1)
        ),
    )
    before = {}

    def keep(runner, **_):
        (hook,) = (h for h in runner.hooks if hasattr(h, 'players'))
        weights = hook.players.generator.state_dict()
        before.update({k: v.clone() for k, v in weights.items()})
        before['student'] = runner.model.student.head.fc.weight.clone()

    runner.hooks[-1].before_train_epoch = keep
    runner.train()
    old = state(tmp_path / 'one', 4)
    trained = old['mosaic_generator_hook']['players']['generator']
    name = 'layers.9.weight'
    assert not before[name].equal(trained[name])
    assert before['student'].equal(old['state_dict']['student.head.fc.weight'])
    new = state(tmp_path / 'two', 1)['mosaic_generator_hook']['players']
    # One update and three steps: the noise starts anew.
    assert new['noise'] == dict(seed=5, draws=1 + 3)
    assert new['generator_schedule']['last_step'] == 1

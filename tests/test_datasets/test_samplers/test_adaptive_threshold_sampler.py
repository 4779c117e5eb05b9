"""The sampler as the runner builds and uses it."""

import logging
from itertools import chain

import mmengine.runner.loops
import numpy as np
import pytest
import torch
from mmengine.registry import DATA_SAMPLERS, MODELS, init_default_scope
from mmengine.runner import Runner
from PIL import Image
from toy_runs import (
    PREPROCESSOR,
    Watcher,
    build_runner,
    classifier,
    distillation,
    loader,
    make_dataset,
    make_images,
    save_teacher,
)

import mmkd_plugin.datasets.samplers.adaptive_threshold_sampler as module
import mmkd_plugin.datasets.samplers.scored_subset_sampler as base
from mmkd_plugin.datasets import AdaptiveThresholdSampler, ArrayImages
from mmkd_plugin.datasets.scoring import score_logits
from mmkd_plugin.datasets.selection import ORDERS, THRESHOLDS
from mmkd_plugin.utils.running_algorithm import (
    announce_algorithm,
    running_algorithm,
)


@pytest.fixture(autouse=True)
def _mmpretrain():
    init_default_scope('mmpretrain')


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / 'teacher.pth')


@pytest.fixture
def said(monkeypatch):
    """What is logged, with its level."""
    lines = []

    def note(message, logger, level=logging.INFO):
        lines.append((level, message))

    monkeypatch.setattr(module, 'print_log', note)
    return lines


def own(ckpt, **kwargs):
    return {
        'type': 'AdaptiveThresholdSampler',
        'teacher': classifier(),
        'teacher_ckpt': ckpt,
        'data_preprocessor': PREPROCESSOR,
        'num_samples': 6,
        'gamma': 0.7,
        **kwargs,
    }


def build(ckpt, dataset=None, seed=3, **kwargs):
    options = own(ckpt, **kwargs)
    del options['type']
    return AdaptiveThresholdSampler(
        make_dataset(20) if dataset is None else dataset, seed=seed, **options
    )


def uncertainties(teacher, images):
    """The teacher's, image by image, without the plugin's preprocessor."""
    model = MODELS.build(classifier())
    model.load_state_dict(torch.load(teacher))
    model.eval()
    values = []
    with torch.no_grad():
        for image in images:
            x = (torch.tensor(image).permute(2, 0, 1).float() - 120.5) / 60
            values.append(score_logits(model(x[None]))[0].item())
    return np.array(values)


def by_hand(teacher, images, num_samples, gamma):
    """The least confident of the most confident ones."""
    order = np.argsort(uncertainties(teacher, images))
    last = int(np.ceil(gamma * len(images)))
    return sorted(order[last - num_samples : last].tolist())


def test_registered():
    assert (
        DATA_SAMPLERS.get('AdaptiveThresholdSampler')
        is AdaptiveThresholdSampler
    )


def test_with_a_teacher_of_its_own(teacher):
    data = Runner.build_dataloader(
        loader(make_dataset(20), sampler=own(teacher)), seed=3
    )
    sampler = data.sampler
    expected = by_hand(teacher, make_images(20), 6, 0.7)
    assert sampler.indices.tolist() == expected
    assert sampler.selection.indices.tolist() == expected
    assert sampler.selection.candidates.sum() == 14
    assert sampler.scores.uncertainty == pytest.approx(
        uncertainties(teacher, make_images(20)), rel=1e-4
    )
    assert len(sampler) == 6
    assert len(data) == 2
    seen = torch.cat([batch['sample_idx'] for batch in data]).tolist()
    assert sorted(seen) == expected


def test_every_epoch_is_shuffled_by_seed_and_epoch(teacher):
    sampler, again = build(teacher), build(teacher)
    epochs = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        again.set_epoch(epoch)
        epochs.append(list(sampler))
        assert epochs[-1] == list(again) == list(sampler)
        assert sorted(epochs[-1]) == sampler.indices.tolist()
    assert len({tuple(epoch) for epoch in epochs}) == 4
    sampler.set_epoch(2)
    assert list(sampler) == epochs[2]
    other = build(teacher, seed=4)
    assert other.indices.tolist() == sampler.indices.tolist()
    assert list(other) != epochs[0]
    still = build(teacher, shuffle=False)
    still.set_epoch(3)
    assert list(still) == still.indices.tolist()


def test_random_order_depends_on_the_seed(teacher):
    options = dict(order='random', gamma=0.99)
    one, same, other = (
        build(teacher, seed=seed, **options).indices.tolist()
        for seed in (3, 3, 4)
    )
    assert one == same != other


def test_without_a_seed_one_is_drawn(teacher):
    assert isinstance(build(teacher, seed=None).seed, int)


def test_with_the_running_algorithm(tmp_path, teacher):
    watcher = Watcher()
    runner = build_runner(
        tmp_path / 'run',
        distillation(teacher),
        loader(
            make_dataset(20, labels=False),
            sampler=dict(
                type='AdaptiveThresholdSampler', num_samples=8, gamma=0.7
            ),
        ),
        [watcher],
        epochs=3,
    )
    runner.train()
    expected = by_hand(teacher, make_images(20), 8, 0.7)
    epochs = [watcher.images[i] + watcher.images[i + 1] for i in (0, 2, 4)]
    assert [sorted(epoch) for epoch in epochs] == [expected] * 3
    # DistSamplerSeedHook sets the epoch
    assert len({tuple(epoch) for epoch in epochs}) == 3
    sampler = runner.train_dataloader.sampler
    assert sampler.seed == 5
    assert not runner.model.teacher.training


def test_augmentation_does_not_change_the_choice(teacher):
    augments = [
        dict(type='BatchRandomCrop', crop_size=8, padding=4),
        dict(type='BatchRandomFlip'),
    ]
    plain = build(teacher)
    augmenting = build(
        teacher, data_preprocessor=dict(PREPROCESSOR, augments=augments)
    )
    assert plain.scores.uncertainty.tolist() == (
        augmenting.scores.uncertainty.tolist()
    )


def iter_based(tmp_path, teacher, **kwargs):
    watcher = Watcher()
    runner = build_runner(
        tmp_path,
        distillation(teacher),
        loader(
            make_dataset(20, labels=False),
            batch_size=3,
            sampler=dict(
                type='AdaptiveThresholdSampler', num_samples=8, gamma=0.7
            ),
        ),
        [watcher],
        train_cfg=dict(by_epoch=False, max_iters=8),
        default_hooks=dict(
            logger=None,
            checkpoint=dict(type='CheckpointHook', interval=5, by_epoch=False),
        ),
        **kwargs,
    )
    return runner, watcher


def test_resumed_iterations_see_the_same_images(
    tmp_path, teacher, monkeypatch
):
    # The loop sleeps two seconds after every pass.
    monkeypatch.setattr(mmengine.runner.loops.time, 'sleep', lambda _: None)
    runner, whole = iter_based(tmp_path / 'whole', teacher)
    runner.train()
    assert [len(batch) for batch in whole.images] == [3, 3, 2] * 2 + [3, 3]
    passes = [list(chain(*whole.images[i : i + 3])) for i in (0, 3)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert passes[0] != passes[1]
    assert not hasattr(runner.train_dataloader.sampler, 'skip')
    resumed, rest = iter_based(
        tmp_path / 'resumed',
        teacher,
        resume=True,
        load_from=str(tmp_path / 'whole' / 'iter_5.pth'),
    )
    resumed.train()
    assert rest.images == whole.images[5:]
    assert rest.losses == whole.losses[5:]


def test_a_sliced_data_set_is_selected_from(teacher):
    data = Runner.build_dataloader(
        loader(make_dataset(20), sampler=own(teacher), num_batch_per_epoch=3),
        seed=3,
    )
    assert data.sampler.indices.tolist() == by_hand(
        teacher, make_images(12), 6, 0.7
    )


def test_images_of_a_folder(tmp_path, teacher):
    images = make_images(6)
    (tmp_path / 'images').mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / 'images' / f'{index}.png')
    dataset = dict(
        type='CustomDataset',
        data_root=str(tmp_path / 'images'),
        with_label=False,
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    )
    # read as BGR, and turned by the preprocessor
    sampler = own(
        teacher,
        num_samples=2,
        gamma=0.5,
        data_preprocessor=dict(PREPROCESSOR, to_rgb=True),
    )
    data = Runner.build_dataloader(loader(dataset, sampler=sampler), seed=0)
    assert data.sampler.indices.tolist() == by_hand(teacher, images, 2, 0.5)
    assert len(next(iter(data))['inputs']) == 2


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(gamma=0), 'gamma must be a finite number and > 0 and < 1'),
        (dict(gamma=1), 'but got 1'),
        (dict(gamma=-0.5), 'but got -0.5'),
        (dict(gamma=float('nan')), 'but got nan'),
        (dict(gamma='0.5'), "but got '0.5'"),
        (dict(num_samples=0), 'num_samples must be .* >= 1, but got 0'),
        (dict(num_samples=-3), 'but got -3'),
        (dict(num_samples=2.5), 'num_samples must be an integer.*2.5'),
        (dict(num_samples=2e3), 'num_samples must be an integer.*2000.0'),
        (dict(batch_size=0), 'batch_size must be .* >= 1, but got 0'),
        (dict(batch_size=512.0), 'batch_size must be an integer.*512.0'),
        (dict(threshold='median'), r"threshold must be one of.*'median'"),
        (dict(order='best'), r"order must be one of.*'best'"),
    ],
)
def test_options_out_of_range(teacher, options, match):
    with pytest.raises(ValueError, match=match):
        build(teacher, **options)
    known = {'num_samples': 5, **options}
    # without data, as the tools check them first
    with pytest.raises(ValueError, match=match):
        AdaptiveThresholdSampler.check_options(cache_file='x', **known)


@pytest.mark.parametrize('threshold', THRESHOLDS)
@pytest.mark.parametrize('order', ORDERS)
def test_all_rules_can_be_chosen(teacher, threshold, order):
    sampler = build(teacher, threshold=threshold, order=order)
    assert (sampler.selection.threshold, sampler.selection.order) == (
        threshold,
        order,
    )
    assert sampler.selection.candidates[sampler.indices].all()


def test_without_any_teacher():
    # This one is gone at once: no strong reference is kept.
    announce_algorithm(torch.nn.Identity())
    assert running_algorithm() is None
    with pytest.raises(ValueError, match=r'has no teacher.*SingleTeacherDis'):
        AdaptiveThresholdSampler(make_dataset(), num_samples=3, seed=0)


def test_incomplete_teachers(tmp_path, teacher):
    with pytest.raises(ValueError, match='needs its data_preprocessor'):
        build(teacher, data_preprocessor=None)
    with pytest.raises(ValueError, match='teacher_ckpt is missing'):
        build(None)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        build(str(tmp_path / 'nowhere.pth'))
    wide = save_teacher(tmp_path / 'wide.pth', width=8)
    with pytest.raises(ValueError, match=r'teacher from .*wide\.pth'):
        build(wide)


def test_a_built_teacher_is_put_into_eval_mode(teacher):
    model = MODELS.build(classifier())
    model.load_state_dict(torch.load(teacher))
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    sampler = build(
        None, teacher=model, data_preprocessor=MODELS.build(PREPROCESSOR)
    )
    assert sampler.indices.tolist() == by_hand(
        teacher, make_images(20), 6, 0.7
    )
    assert not any(part.training for part in model.modules())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_teacher_with_nan_weights(tmp_path, teacher):
    weights = torch.load(teacher)
    weights['head.fc.bias'][1] = torch.nan
    torch.save(weights, tmp_path / 'nan.pth')
    with pytest.raises(ValueError, match='NaN or infinite logits for 20 of 2'):
        build(str(tmp_path / 'nan.pth'))


def forbid_scoring(monkeypatch):
    monkeypatch.setattr(
        base, 'score_dataset', lambda *_: pytest.fail('scored again')
    )


def test_cache_spares_the_teacher(tmp_path, teacher, monkeypatch):
    cache = str(tmp_path / 'scores.npz')
    first = build(teacher, cache_file=cache)
    forbid_scoring(monkeypatch)
    # Rules and augmentation may change, the scores are the same.
    augments = [dict(type='BatchRandomFlip')]
    second = build(
        teacher,
        cache_file=cache,
        data_preprocessor=dict(PREPROCESSOR, augments=augments),
    )
    assert second.indices.tolist() == first.indices.tolist()
    other = build(teacher, cache_file=cache, gamma=0.3, order='confident')
    assert other.indices.tolist() != first.indices.tolist()


def slightly(dataset):
    dataset.images[7, 3, 3, 0] ^= 1
    return dataset


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        (dict(dataset=slightly(make_dataset(20))), 'dataset'),
        (dict(dataset=make_dataset(19)), 'dataset'),
        *(
            (dict(data_preprocessor=dict(PREPROCESSOR, **change)), 'transform')
            for change in (
                dict(mean=[120.5, 120.5, 120.50001]),
                dict(std=[60.0, 61.0, 60.0]),
                dict(to_rgb=True),
                dict(pad_size_divisor=16),
            )
        ),
    ],
)
def test_stale_cache(tmp_path, teacher, changes, word):
    cache = str(tmp_path / 'scores.npz')
    build(teacher, cache_file=cache)
    with pytest.raises(ValueError, match=f'made with another {word}\\. Del'):
        build(teacher, cache_file=cache, **changes)


def test_cache_of_another_teacher(tmp_path, teacher):
    cache = str(tmp_path / 'scores.npz')
    build(teacher, cache_file=cache)
    weights = torch.load(teacher)
    weights['head.fc.bias'][0] += 1e-6
    torch.save(weights, teacher)
    with pytest.raises(ValueError, match=r'made with another teacher\. Dele'):
        build(teacher, cache_file=cache)


def test_more_samples_than_candidates_warns(teacher, said):
    sampler = build(teacher, num_samples=18)
    assert len(sampler.indices) == 14
    assert said[0] == (
        logging.WARNING,
        'num_samples=18 is more than the 14 images over the threshold: all '
        'of these are taken',
    )


def test_the_choice_is_logged(teacher, said):
    sampler = build(teacher)
    ((level, line),) = said
    assert level == logging.INFO
    assert line.startswith(
        'adaptive threshold: 20 images, 14 with a confidence >= '
    )
    assert '6 chosen (informative)' in line
    u = np.sort(sampler.scores.uncertainty)
    assert f'{np.exp(-u[13]):.6g} to {np.exp(-u[8]):.6g}' in line


class Unsure(torch.nn.Module):
    """Teacher that finds every class as likely as the others."""

    def forward(self, inputs, mode):
        return torch.zeros(len(inputs), 4)


def test_nobody_passes(said):
    options = dict(
        teacher=Unsure(), threshold='class_prior', gamma=0.5, num_samples=3
    )
    sampler = build(None, **options)
    assert sampler.indices.tolist() == [0, 1, 2]
    assert sampler.selection.fallback
    level, line = said[0]
    assert level == logging.WARNING
    assert 'no image reaches the confidence delta = 0.5' in line
    assert 'the 3 most confident images are taken' in line
    with pytest.raises(ValueError, match=r'delta = 0\.5 .*; raise gamma'):
        build(None, strict=True, **options)


def test_an_unlabeled_set_of_one_image(teacher):
    dataset = ArrayImages(make_images(1))
    sampler = build(teacher, dataset=dataset, num_samples=4, gamma=0.5)
    assert list(sampler) == [0]

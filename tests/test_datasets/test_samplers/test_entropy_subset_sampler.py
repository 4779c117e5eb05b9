"""The subset by entropy, as the runner builds and uses it."""

import logging

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATA_SAMPLERS, MODELS, init_default_scope
from mmengine.runner import Runner
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

import mmkd_plugin.datasets.samplers.entropy_subset_sampler as module
import mmkd_plugin.datasets.samplers.scored_subset_sampler as base
from mmkd_plugin.datasets import (
    AdaptiveThresholdSampler,
    ArrayImages,
    EntropySubsetSampler,
)
from mmkd_plugin.engine.preflight import preflight
from mmkd_plugin.utils.running_algorithm import announce_algorithm


@pytest.fixture(autouse=True)
def _mmpretrain():
    init_default_scope('mmpretrain')


@pytest.fixture
def teacher(tmp_path):
    return save_teacher(tmp_path / 'teacher.pth')


def own(ckpt, **kwargs):
    return {
        'type': 'EntropySubsetSampler',
        'teacher': classifier(),
        'teacher_ckpt': ckpt,
        'data_preprocessor': PREPROCESSOR,
        'num_samples': 6,
        **kwargs,
    }


def build(ckpt, dataset=None, seed=3, **kwargs):
    options = own(ckpt, **kwargs)
    del options['type']
    return EntropySubsetSampler(
        make_dataset(20) if dataset is None else dataset, seed=seed, **options
    )


def entropies(teacher, images):
    """The teacher's, image by image, without the plugin's preprocessor."""
    model = MODELS.build(classifier())
    model.load_state_dict(torch.load(teacher))
    model.eval()
    values = []
    with torch.no_grad():
        for image in images:
            x = (torch.tensor(image).permute(2, 0, 1).float() - 120.5) / 60
            log_p = model(x[None])[0].double().log_softmax(0).tolist()
            values.append(-sum(np.exp(value) * value for value in log_p))
    return np.array(values)


def by_hand(teacher, images, num_samples):
    order = np.argsort(-entropies(teacher, images))
    return sorted(order[:num_samples].tolist())


def test_registered():
    assert DATA_SAMPLERS.get('EntropySubsetSampler') is EntropySubsetSampler


def test_with_a_teacher_of_its_own(teacher):
    data = Runner.build_dataloader(
        loader(make_dataset(20), sampler=own(teacher)), seed=3
    )
    sampler = data.sampler
    known = entropies(teacher, make_images(20))
    expected = by_hand(teacher, make_images(20), 6)
    assert sampler.indices.tolist() == expected
    assert sampler.scores.entropy == pytest.approx(known, rel=1e-4)
    ranked = sampler.selection.indices
    assert sorted(ranked.tolist()) == expected
    assert (np.diff(known[ranked]) < 0).all()
    assert sampler.selection.min_entropy == pytest.approx(
        known[ranked[-1]], rel=1e-4
    )
    assert len(sampler) == 6
    seen = torch.cat([batch['sample_idx'] for batch in data]).tolist()
    assert sorted(seen) == expected


def test_every_epoch_is_shuffled_by_seed_and_epoch(teacher):
    sampler, again = build(teacher), build(teacher)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        again.set_epoch(epoch)
        epochs.append(list(sampler))
        assert epochs[-1] == list(again)
        assert sorted(epochs[-1]) == sampler.indices.tolist()
    assert len({tuple(epoch) for epoch in epochs}) == 3
    other = build(teacher, seed=4)
    assert other.indices.tolist() == sampler.indices.tolist()
    assert list(other) != epochs[0]
    still = build(teacher, shuffle=False)
    assert list(still) == still.indices.tolist()


class Brightness(torch.nn.Module):
    """Teacher that is the surer, the further the first pixel is from 100."""

    def forward(self, inputs, mode):
        logits = torch.zeros(len(inputs), 3)
        logits[:, 1] = (inputs[:, 0, 0, 0] - 100) * 20
        return logits


def test_the_surest_images_come_last():
    """Their softmax underflows, which must not make them the first."""
    images = np.zeros((8, 4, 4, 3), dtype=np.uint8)
    values = [200, 100, 180, 101, 255, 100, 106, 255]
    images[:, 0, 0] = np.array(values)[:, None]
    options = dict(
        dataset=ArrayImages(images),
        teacher=Brightness(),
        data_preprocessor=dict(type='BatchAugDataPreprocessor'),
    )
    sampler = build(None, num_samples=5, **options)
    assert np.isfinite(sampler.scores.entropy).all()
    # 100 twice, 101, 106, and the first of those of which none is left.
    assert sampler.selection.indices.tolist() == [1, 5, 3, 6, 0]
    whole = build(None, num_samples=8, **options)
    assert whole.selection.indices.tolist() == [1, 5, 3, 6, 0, 2, 4, 7]
    assert whole.indices.tolist() == list(range(8))


def test_with_the_running_algorithm(tmp_path, teacher):
    watcher = Watcher()
    runner = build_runner(
        tmp_path / 'run',
        distillation(teacher),
        loader(
            make_dataset(20, labels=False),
            sampler=dict(type='EntropySubsetSampler', num_samples=8),
        ),
        [watcher, dict(type='SelectionReportHook')],
    )
    runner.train()
    expected = by_hand(teacher, make_images(20), 8)
    epochs = [watcher.images[i] + watcher.images[i + 1] for i in (0, 2)]
    assert [sorted(epoch) for epoch in epochs] == [expected] * 2
    assert epochs[0] != epochs[1]
    assert runner.train_dataloader.sampler.seed == 5
    written = (tmp_path / 'run' / 'selection').iterdir()
    assert sorted(path.name for path in written) == [
        'montage.png',
        'selection.json',
    ]


def forbid_scoring(monkeypatch):
    monkeypatch.setattr(
        base, 'score_dataset', lambda *_: pytest.fail('scored again')
    )


def adaptive(ckpt, cache):
    return AdaptiveThresholdSampler(
        make_dataset(20),
        num_samples=6,
        gamma=0.7,
        teacher=classifier(),
        teacher_ckpt=ckpt,
        data_preprocessor=PREPROCESSOR,
        cache_file=cache,
        seed=3,
    )


def test_both_samplers_share_a_cache(tmp_path, teacher, monkeypatch):
    caches = [str(tmp_path / f'{name}.npz') for name in 'ab']
    one = build(teacher, cache_file=caches[0])
    other = adaptive(teacher, caches[1])
    assert one.indices.tolist() != other.indices.tolist()
    forbid_scoring(monkeypatch)
    for cache in caches:
        again = build(teacher, cache_file=cache)
        assert again.indices.tolist() == one.indices.tolist()
        assert adaptive(teacher, cache).indices.tolist() == (
            other.indices.tolist()
        )


@pytest.mark.parametrize(
    ('changes', 'word'),
    [
        (dict(dataset=make_dataset(19)), 'dataset'),
        (
            dict(data_preprocessor=dict(PREPROCESSOR, std=[60, 61, 60])),
            'transform',
        ),
    ],
)
def test_stale_cache(tmp_path, teacher, changes, word):
    cache = str(tmp_path / 'scores.npz')
    adaptive(teacher, cache)
    with pytest.raises(ValueError, match=f'made with another {word}\\. Del'):
        build(teacher, cache_file=cache, **changes)


@pytest.mark.parametrize(
    ('options', 'match'),
    [
        (dict(num_samples=0), 'num_samples must be .* >= 1, but got 0'),
        (dict(num_samples=2.5), 'num_samples must be an integer.*2.5'),
        (dict(batch_size=0), 'batch_size must be .* >= 1, but got 0'),
    ],
)
def test_options_out_of_range(teacher, options, match):
    with pytest.raises(ValueError, match=match):
        build(teacher, **options)
    known = {'num_samples': 5, **options}
    # without data, as the tools check them first
    with pytest.raises(ValueError, match=match):
        EntropySubsetSampler.check_options(cache_file='x', **known)


def test_more_samples_than_images(teacher, monkeypatch):
    assert len(build(teacher, num_samples=20)) == 20
    # before the teacher's pass
    forbid_scoring(monkeypatch)
    with pytest.raises(
        ValueError, match='num_samples=21 is more than the 20 images'
    ):
        build(teacher, num_samples=21)


def config(ckpt, **sampler):
    return Config(
        dict(
            default_scope='mmpretrain',
            model=distillation(ckpt),
            train_dataloader=dict(
                dataset=dict(type='DemoGlyphs', num_images=5, size=8),
                sampler=dict(type='EntropySubsetSampler', **sampler),
            ),
        )
    )


def test_checked_before_a_run(tmp_path, teacher):
    preflight(config(teacher, num_samples=5))
    with pytest.raises(ValueError, match='num_samples=6 is more than the 5'):
        preflight(config(teacher, num_samples=6))
    with pytest.raises(TypeError, match=r'EntropySubsetSampler: .*gamma'):
        preflight(config(teacher, num_samples=5, gamma=0.5))
    with pytest.raises(TypeError, match=r"missing a required .*'num_sample"):
        preflight(config(teacher))
    damaged = tmp_path / 'scores.npz'
    damaged.write_bytes(b'PK\x03\x04')
    with pytest.raises(ValueError, match='cannot be read'):
        preflight(config(teacher, num_samples=5, cache_file=str(damaged)))


def test_without_any_teacher():
    announce_algorithm(torch.nn.Identity())
    with pytest.raises(ValueError, match=r'^EntropySubsetSampler has no tea'):
        EntropySubsetSampler(make_dataset(), num_samples=3, seed=0)


def test_the_choice_is_logged(teacher, monkeypatch):
    lines = []
    monkeypatch.setattr(
        module,
        'print_log',
        lambda text, logger, level=logging.INFO: lines.append((level, text)),
    )
    entropy = build(teacher).scores.entropy
    least, *_, most = sorted(entropy)[-6:]
    assert lines == [
        (
            logging.INFO,
            f'largest entropy: 6 of 20 images chosen, entropies {least:.6g} '
            f'to {most:.6g} nats, mean of all {entropy.mean():.6g}',
        )
    ]

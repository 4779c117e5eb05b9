"""Tests of the way from checkpoints to knowledge points."""

import copy
import csv
import io
import json
from dataclasses import replace

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from toy_courses import MODEL, toy_weights, write_course
from toy_runs import make_images

from mmkd_plugin.explain import (
    ImageSet,
    LayerFeature,
    Protocol,
    cell_energy,
    entropy_flow,
    explain_networks,
    knowledge_points,
    learning_speed,
    read_course,
    stability,
)
from mmkd_plugin.explain.explain_networks import check_networks

NUM = 6
PROTOCOL = Protocol(layer='backbone.layer1', grid=(4, 4), b=0.05)


def images(left=4):
    """Images of 8x8 whose foreground is on the left."""
    masks = torch.zeros(NUM, 8, 8, dtype=torch.bool)
    masks[:, :, :left] = True
    return ImageSet(
        torch.from_numpy(make_images(NUM)).permute(0, 3, 1, 2),
        masks,
        [f'{i}.png' for i in range(NUM)],
        [0, 1, 2, 0, 1, None],
    )


@pytest.fixture(scope='module')
def courses(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    start = toy_weights(0)
    student = {0: start, 3: toy_weights(1), 50: toy_weights(2)}
    baseline = {0: start, 50: toy_weights(3)}
    return dict(
        student=read_course([write_course(folder / 's', student)]),
        baseline=read_course([write_course(folder / 'b', baseline)]),
    )


@pytest.fixture
def teacher(tmp_path):
    torch.save(toy_weights(9), tmp_path / 'teacher.pth')
    return tmp_path / 'teacher.pth'


def by_hand(weights, image_set):
    """Entropies of a network, without anything of the driver."""
    init_default_scope('mmpretrain')
    net = MODELS.build(MODEL)
    net.load_state_dict(weights)
    normalised = (image_set.images.float() - 120.5) / 60.0
    energy = cell_energy(
        LayerFeature(net, 'backbone.layer1'),
        normalised,
        (4, 4),
        generator=torch.Generator().manual_seed(0),
    )
    return entropy_flow(energy).entropy


def test_against_a_plain_loop(courses, teacher):
    found = explain_networks(
        images(), PROTOCOL, **courses, model=MODEL, teacher=teacher
    )
    assert list(found.networks) == ['teacher', 'student', 'baseline']
    assert found.num_images == len(found.names) == NUM
    foreground = torch.zeros(NUM, 4, 4, dtype=torch.bool)
    foreground[:, :, :2] = True
    assert torch.equal(found.foreground, foreground)
    for name, seeds in dict(
        teacher=[9], student=[0, 1, 2], baseline=[0, 3]
    ).items():
        entropy = torch.stack(
            [by_hand(toy_weights(seed), images()) for seed in seeds]
        )
        network = found.networks[name]
        torch.testing.assert_close(network.entropy, entropy)
        points = knowledge_points(entropy, foreground, 0.05)
        torch.testing.assert_close(network.points.n_fg, points.n_fg)
        torch.testing.assert_close(network.points.n_bg, points.n_bg)
        if name == 'teacher':
            assert network.speed is network.stability is None
            assert network.distances is None and network.epochs == [0]
            continue
        course = courses[name]
        assert network.epochs == course.epochs
        distances = torch.tensor(course.distances, dtype=torch.float64)
        speed = learning_speed(points.n_fg, distances)
        assert torch.equal(network.speed.m_hat, speed.m_hat)
        assert network.speed.d_mean == speed.d_mean
        stable = stability(points.foreground_points)
        assert network.stability.mean_rho == stable.mean_rho
    # The networks differ, or this would compare nothing.
    last = [n.points.n_fg[-1].tolist() for n in found.networks.values()]
    assert last[0] != last[1] != last[2]


def test_all_figures_are_written(courses, teacher):
    found = explain_networks(
        images(), PROTOCOL, **courses, model=MODEL, teacher=teacher
    )
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    student = found.networks['student']
    assert told['networks']['student']['n_fg'] == pytest.approx(
        student.points.mean_n_fg.tolist()
    )
    assert told['networks']['student']['d_std'] == pytest.approx(
        student.speed.d_std.item()
    )
    assert told['networks']['student']['epochs'] == [0, 3, 50]
    assert told['networks']['teacher']['distances'] is None
    assert told['protocol']['layer'] == 'backbone.layer1'
    assert told['images'][5] == dict(
        name='5.png', label=None, foreground_cells=8
    )
    rows = list(csv.DictReader(io.StringIO(found.as_csv())))
    assert len(rows) == NUM
    for place, row in enumerate(rows):
        assert row['image'] == f'{place}.png'
        assert int(row['student_n_fg']) == student.points.n_fg[-1, place]
        best = student.speed.m_hat[place]
        assert int(row['student_best_epoch']) == student.epochs[best]
        assert float(row['student_rho']) == pytest.approx(
            student.stability.rho[place].item()
        )
        assert 'teacher_n_bg' in row and 'teacher_rho' not in row
    assert rows[5]['label'] == ''


def test_what_the_figures_depend_on_is_told(courses, teacher):
    found = explain_networks(
        images(), PROTOCOL, **courses, model=MODEL, teacher=teacher
    ).as_dict()
    student = found['networks']['student']
    assert student['granularity'] == 'step'
    assert student['parameters'] == ['backbone.conv1.weight']
    assert [x.rsplit('/', 1)[1] for x in student['checkpoints']] == [
        'epoch_0.pth',
        'epoch_3.pth',
        'epoch_50.pth',
    ]
    assert found['networks']['teacher']['checkpoints'] == [str(teacher)]
    # 4 channels of 8x8: exact.
    assert student['feature_length'] == student['probes'] == 256
    # In float64, as the distances themselves.
    reached = student['per_image']['distance']
    assert {*reached} <= {*student['distances']}


def test_accuracy_is_that_of_this_teacher(courses, teacher):
    def told(**changes):
        course = replace(courses['student'], **changes)
        found = explain_networks(
            images(), PROTOCOL, student=course, model=MODEL, teacher=teacher
        )
        return found.networks['teacher'].accuracy

    assert told(teacher_ckpt=str(teacher), teacher_accuracy=93.0) == 93.0
    assert told(teacher_ckpt='other.pth', teacher_accuracy=93.0) is None


def test_faults_are_found_before_the_work():
    common = dict(model=MODEL, teacher_model=MODEL)
    check_networks(images(), PROTOCOL, **common)
    unknown = Protocol(layer='backbone.layer1', teacher_layer='layer1')
    with pytest.raises(ValueError, match=r'teacher: .*nearest: backbone.l'):
        check_networks(images(), replace(unknown, grid=(4, 4)), **common)
    with pytest.raises(ValueError, match=r'student: .*16 rows do not divide'):
        check_networks(images(), unknown, **common)
    wrong = replace(PROTOCOL, constants=dict(lam=-1.0))
    with pytest.raises(ValueError, match='student: lam must be'):
        check_networks(images(), wrong, **common)


def test_images_without_foreground_or_background_are_named(courses):
    odd = images()
    odd.masks[1] = False
    odd.masks[4] = True
    found = explain_networks(odd, PROTOCOL, **courses, model=MODEL)
    assert found.dropped == {
        'no cell of the foreground': ['1.png'],
        'no cell of the background': ['4.png'],
        'no energy at some checkpoint': [],
    }
    assert found.names == ['0.png', '2.png', '3.png', '5.png']
    assert found.labels == [0, 2, 0, None]
    assert found.num_images == NUM
    assert (found.images == make_images(NUM)[[0, 2, 3, 5]]).all()
    odd.masks[:] = False
    with pytest.raises(ValueError, match=r'no image is left of 6.*6: no cell'):
        explain_networks(odd, PROTOCOL, **courses, model=MODEL)


def dead(weights):
    """Weights whose feature is the same for all images."""
    weights = copy.deepcopy(weights)
    for name, value in weights.items():
        if name.startswith('backbone.') and name.endswith('weight'):
            value.zero_()
    return weights


def test_dead_layer(tmp_path, courses):
    run = {0: toy_weights(0), 7: dead(toy_weights(0))}
    course = read_course([write_course(tmp_path / 'dead', run)])
    with pytest.raises(
        ValueError, match=r"student, epoch 7 .*'backbone.layer1'.*dead"
    ):
        explain_networks(images(), PROTOCOL, student=course, model=MODEL)


def test_image_without_energy_is_left_out_for_all(courses, monkeypatch):
    entropy = Protocol.entropy
    calls = []

    def blind(self, feature_fn, images, memory):
        calls.append(1)
        found = entropy(self, feature_fn, images, memory)
        if len(calls) == 2:
            found.has_energy[3] = False
            found.entropy[3] = float('nan')
        return found

    monkeypatch.setattr(Protocol, 'entropy', blind)
    found = explain_networks(images(), PROTOCOL, **courses, model=MODEL)
    assert found.dropped['no energy at some checkpoint'] == ['3.png']
    assert len(found.names) == NUM - 1
    assert found.networks['student'].without_energy == [0, 1, 0]
    assert found.networks['baseline'].without_energy == [0, 0]
    assert found.networks['baseline'].entropy.shape[1] == NUM - 1


def test_released_filter_is_told_and_applied(courses):
    told = explain_networks(images(), PROTOCOL, **courses, model=MODEL)
    passed = told.released_filter['passed']
    # Which images pass, by the definition.
    keeps = []
    for name in ('student', 'baseline'):
        entropy = told.networks[name].entropy[-1].double()
        keep = entropy[..., 2:].mean((1, 2)) >= entropy[..., :2].mean((1, 2))
        assert passed[name] == keep.sum()
        keeps.append(keep)
    both = keeps[0] & keeps[1]
    assert told.released_filter['applied'] is False
    assert told.released_filter['kept'] == both.sum()
    assert len(told.names) == NUM
    if both.any():
        applied = explain_networks(
            images(),
            Protocol(**{**vars(PROTOCOL), 'released_filter': True}),
            **courses,
            model=MODEL,
        )
        assert len(applied.names) == both.sum()
        assert len(applied.dropped['not effective (released filter)']) == (
            NUM - both.sum()
        )


def test_released_filter_needs_late_checkpoints(courses):
    late = Protocol(
        layer='backbone.layer1',
        grid=(4, 4),
        released_filter=True,
        from_epoch=51,
    )
    with pytest.raises(ValueError, match=r'epoch 51 or later.*student, base'):
        explain_networks(images(), late, **courses, model=MODEL)


def test_other_start_is_noted(tmp_path, courses):
    assert not any(
        'start' in note
        for note in explain_networks(
            images(), PROTOCOL, **courses, model=MODEL
        ).notes
    )
    other = {0: toy_weights(5), 50: toy_weights(3)}
    course = read_course(
        [write_course(tmp_path / 'b', other, granularity='epoch')]
    )
    notes = explain_networks(
        images(),
        PROTOCOL,
        student=courses['student'],
        baseline=course,
        model=MODEL,
    ).notes
    assert any('did not start from the same weights' in n for n in notes)
    assert any('by step, that of the baseline by epoch' in n for n in notes)


def test_faults(tmp_path, courses, teacher):
    wide = copy.deepcopy(MODEL)
    wide['backbone']['base_channels'] = 8
    with pytest.raises(
        ValueError, match=r'student, epoch 0 .*do not fit(.|\n)*another shape'
    ):
        explain_networks(images(), PROTOCOL, **courses, model=wide)
    unknown = Protocol(layer='backbone.layer9', grid=(4, 4))
    with pytest.raises(ValueError, match=r'student: .*nearest: backbone.la'):
        explain_networks(images(), unknown, **courses, model=MODEL)
    uneven = Protocol(layer='backbone.layer1', grid=(3, 4))
    with pytest.raises(ValueError, match='3 rows do not divide 8 pixels'):
        explain_networks(images(), uneven, **courses, model=MODEL)
    bare = {k: v for k, v in MODEL.items() if k != 'data_preprocessor'}
    with pytest.raises(ValueError, match='data_preprocessor'):
        explain_networks(images(), PROTOCOL, teacher=teacher, model=bare)
    with pytest.raises(ValueError, match='must be a student'):
        explain_networks(images(), PROTOCOL, model=MODEL)
    with pytest.raises(ValueError, match='config of their model'):
        explain_networks(images(), PROTOCOL, **courses)
    broken = toy_weights(0)
    broken['backbone.conv1.weight'][0] = float('nan')
    course = read_course([write_course(tmp_path / 'nan', {0: broken})])
    with pytest.raises(ValueError, match=r'student, epoch 0 .*finite'):
        explain_networks(images(), PROTOCOL, student=course, model=MODEL)


def test_teacher_of_another_kind_and_bgr_images(teacher):
    """Files are loaded as BGR; the page shows RGB."""
    model = copy.deepcopy(MODEL)
    model['data_preprocessor'] = dict(
        type='mmpretrain.ClsDataPreprocessor',
        mean=[100.0, 110.0, 120.0],
        std=[60.0] * 3,
        to_rgb=True,
    )
    found = explain_networks(
        images(), PROTOCOL, teacher=teacher, teacher_model=model
    )
    assert (found.images == make_images(NUM)[..., ::-1]).all()
    flipped = images()._replace(images=images().images.flip(1))
    net = copy.deepcopy(model)
    net['data_preprocessor']['to_rgb'] = False
    again = explain_networks(
        flipped, PROTOCOL, teacher=teacher, teacher_model=net
    )
    torch.testing.assert_close(
        found.networks['teacher'].entropy, again.networks['teacher'].entropy
    )

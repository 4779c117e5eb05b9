"""Tests of reading the course of a training."""

import json

import pytest
import torch
from toy_courses import toy_weights, write_course

from mmkd_plugin.engine.report import make_report
from mmkd_plugin.explain import read_course
from mmkd_plugin.explain.training_course import checkpoint_accuracy


def weights(value):
    return {'w': torch.full((2,), float(value))}


def test_one_phase(tmp_path):
    run = write_course(
        tmp_path / 'run',
        {0: weights(0), 2: weights(2), 10: weights(10)},
        lengths={0: 0.0, 1: 1.0, 2: 3.0, 10: 8.0},
    )
    course = read_course([run])
    # By number, not by name.
    assert course.epochs == [0, 2, 10]
    assert course.distances == [0.0, 1.5, 4.0]
    assert [course.weights(i)['w'][0].item() for i in range(3)] == [0, 2, 10]
    assert course.granularity == 'step'
    assert course.accuracy is None and course.notes == []


def test_phases_go_on_counting(tmp_path):
    first = write_course(
        tmp_path / 'first',
        {0: weights(0), 2: weights(2)},
        lengths={0: 0.0, 2: 3.0, 3: 5.0},
        norm=2.0,
    )
    second = write_course(
        tmp_path / 'second',
        {0: weights(2), 1: weights(3)},
        lengths={0: 0.0, 1: 4.0},
        norm=50.0,
    )
    course = read_course([first, second])
    # The first phase has three epochs; all is in the norm of its start.
    assert course.epochs == [0, 2, 4]
    assert course.distances == [0.0, 1.5, 4.5]
    assert course.weights(2)['w'].tolist() == [3, 3]
    assert course.notes == []


def test_phase_from_other_weights_is_noted(tmp_path):
    first = write_course(tmp_path / 'a', {0: weights(0), 1: weights(1)})
    second = write_course(tmp_path / 'b', {0: weights(9), 1: weights(2)})
    (note,) = read_course([first, second]).notes
    assert '1 tensors differ, the first is w' in note


def test_phases_that_measure_something_else(tmp_path):
    first = write_course(tmp_path / 'a', {0: weights(0)})
    second = write_course(
        tmp_path / 'b', {0: weights(0)}, parameters=['other']
    )
    third = write_course(tmp_path / 'c', {0: weights(0)}, granularity='epoch')
    with pytest.raises(ValueError, match=r'other parameters than in .*a,'):
        read_course([first, second])
    with pytest.raises(ValueError, match='other granularity'):
        read_course([first, third])


def test_accuracy_of_student_and_teacher(tmp_path):
    run = write_course(tmp_path / 'run', {0: weights(0)})
    report = make_report(
        run_name='run',
        validations=[
            dict(iteration=1, epoch=1, metrics={'accuracy/top1': 50.0}),
            dict(iteration=2, epoch=2, metrics={'accuracy/top1': 40.0}),
        ],
        teacher=dict(metrics={'accuracy/top1': 90.0}),
        config="model = dict(teacher_ckpt='some/teacher.pth', x=1)",
    )
    (run / 'report').mkdir()
    (run / 'report' / 'report.json').write_text(json.dumps(report))
    course = read_course([run])
    assert (course.accuracy, course.teacher_accuracy) == (40.0, 90.0)
    assert course.teacher_ckpt == 'some/teacher.pth'
    (note,) = course.notes
    assert 'after epoch 2, its last checkpoint is of epoch 0' in note
    # The report is about the last checkpoint.
    report['epochs'] = 2
    (run / 'report' / 'report.json').write_text(json.dumps(report))
    assert checkpoint_accuracy(run / 'epoch_2.pth') == 40.0
    assert checkpoint_accuracy(run / 'epoch_1.pth') is None
    assert checkpoint_accuracy(tmp_path / 'epoch_2.pth') is None


def test_everything_that_is_missing_is_told_at_once(tmp_path):
    bare = tmp_path / 'bare'
    bare.mkdir()
    with pytest.raises(ValueError) as caught:
        read_course([bare, tmp_path / 'none'])
    text = str(caught.value)
    assert 'no weight_distance.json and no snapshots' in text
    assert 'WeightDistanceHook' in text
    assert 'none: there is no such work directory' in text
    with pytest.raises(ValueError, match='at least one'):
        read_course([])


def test_files_of_different_runs(tmp_path):
    run = write_course(
        tmp_path / 'a', {0: weights(0), 5: weights(0)}, lengths={0: 0.0}
    )
    with pytest.raises(ValueError, match=r'epoch_5\.pth.*it ends at 0'):
        read_course([run])
    run = write_course(tmp_path / 'b', {0: weights(0), 1: weights(0)})
    torch.save(
        dict(state_dict=weights(0), meta=dict(iter=7)),
        run / 'snapshots' / 'epoch_1.pth',
    )
    with pytest.raises(ValueError, match=r'after 7 iterations.*after 10'):
        read_course([run])


def test_distances_that_are_none(tmp_path):
    run = write_course(
        tmp_path / 'a',
        {0: weights(0)},
        lengths={0: 0.0, 1: 1.0},
        epochs=[
            dict(epoch=0, iteration=0, path_length=0.0),
            dict(epoch=1, iteration=10, path_length=None),
        ],
    )
    with pytest.raises(ValueError, match='not finite from epoch 1 on'):
        read_course([run])
    (run / 'weight_distance.json').write_text('{}')
    with pytest.raises(ValueError, match='not what WeightDistanceHook'):
        read_course([run])


def test_real_weights_are_read(tmp_path):
    run = write_course(tmp_path / 'run', {0: toy_weights()})
    found = read_course([run]).weights(0)
    torch.testing.assert_close(found, toy_weights(), rtol=0, atol=0)

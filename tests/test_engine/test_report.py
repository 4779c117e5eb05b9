import json
import math
import re

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot as plt

from mmkd_plugin.engine import report as R


def make(name='run', top1=(90.0, 95.0, 94.0), **kwargs):
    validations = [
        dict(iteration=10 * e, epoch=e, metrics={'accuracy/top1': value})
        for e, value in enumerate(top1, 1)
    ]
    defaults = dict(
        run_name=name,
        epochs=len(top1),
        iterations=10 * len(top1),
        validations=validations,
        trained_on='2,000 glyphs',
        student=dict(architecture='Net-18', parameters=11_220_132),
        teacher=dict(
            architecture='Net-34',
            parameters=21_328_292,
            metrics={'accuracy/top1': 99.6},
        ),
        curves={
            'train/loss': dict(iteration=[10, 20, 30], value=[3, None, 1])
        },
        confusion=[[4, 1], [0, 5]],
        classes=['cat', 'dog'],
    )
    return R.make_report(**{**defaults, **kwargs})


def texts(axes):
    return [text.get_text() for text in axes.texts]


def several_teachers():
    return make(
        teacher=None,
        teachers=[
            dict(
                name=name,
                architecture=f'Net-{i}',
                parameters=10 * i,
                metrics={'accuracy/top1': top1},
            )
            for i, (name, top1) in enumerate(
                [('first', 97.0), ('second', 98.5)], 1
            )
        ],
    )


class TestThinCurve:
    def test_means_end_at_multiples_of_the_interval(self):
        curve = R.thin_curve([1, 2, 3, 4, 5, 6, 7], last_step=7, interval=3)
        assert curve == dict(iteration=[3, 6, 7], value=[2.0, 5.0, 7.0])

    def test_last_value(self):
        curve = R.thin_curve([1, 2, 3, 4], 4, interval=2, reduce='last')
        assert curve == dict(iteration=[2, 4], value=[2.0, 4.0])

    def test_lost_beginning_keeps_the_steps(self):
        curve = R.thin_curve([5, 6], last_step=6, interval=4)
        assert curve == dict(iteration=[6], value=[5.5])

    def test_values_of_another_run_are_left_out(self):
        curve = R.thin_curve([9, 9, 1, 2], last_step=2)
        assert curve == dict(iteration=[1, 2], value=[1.0, 2.0])
        assert R.thin_curve([9, 9], last_step=0)['value'] == []

    def test_not_a_number_becomes_none(self):
        curve = R.thin_curve([1, math.nan, 3, 4], 4, interval=2)
        assert curve['value'] == [None, 3.5]

    def test_number_of_points_is_bounded(self):
        curve = R.thin_curve(np.arange(10_000), 10_000, 10, most_points=100)
        assert len(curve['value']) == 100
        assert curve['iteration'][:2] == [100, 200]


class TestNumbers:
    @pytest.mark.parametrize(
        'value, expected',
        [
            (1, 1.0),
            (np.float32(0.5), 0.5),
            (math.nan, None),
            (math.inf, None),
            (None, None),
            ('x', None),
            (True, None),
        ],
    )
    def test_finite(self, value, expected):
        assert R.finite(value) == expected

    def test_most_confused(self):
        matrix = [[5, 2, 0], [0, 9, 1], [2, 0, 2]]
        assert R.most_confused(matrix, count=2) == [
            (0, 1, 2, 2 / 7),
            (2, 0, 2, 0.5),
        ]
        assert R.most_confused(np.eye(3, dtype=int)) == []

    def test_best_validation_is_the_earliest_of_equals(self):
        values = [1.0, math.nan, 3.0, 3.0, 2.0]
        entries = [
            dict(place=i, metrics=dict(a=v)) for i, v in enumerate(values)
        ]
        assert R.best_validation(entries, 'a')['place'] == 2
        assert R.best_validation(entries, 'b') is None
        assert R.best_validation([], 'a') is None

    @pytest.mark.parametrize(
        'count, text',
        [
            (None, '-'),
            (0, '0'),
            (999, '999'),
            (1234, '1.23 k'),
            (11_220_132, '11.2 M'),
            (138_000_000, '138 M'),
        ],
    )
    def test_format_count(self, count, text):
        assert R.format_count(count) == text

    def test_format_confidence_never_rounds_up_to_one(self):
        assert R.format_confidence(-math.log(0.982)) == '98.2 %'
        assert R.format_confidence(3e-7) == '1-3e-07'
        assert R.format_confidence(0.0) == '1'


class TestReport:
    def test_student_last_and_best(self):
        student = make()['student']
        assert student['last'] == {'accuracy/top1': 94.0}
        assert student['best'] == {'accuracy/top1': 95.0}
        assert (student['best_epoch'], student['best_iteration']) == (2, 20)

    def test_validation_curve(self):
        assert make()['curves']['val/accuracy/top1'] == dict(
            iteration=[10, 20, 30], epoch=[1, 2, 3], value=[90.0, 95.0, 94.0]
        )

    def test_round_trip_without_nan(self):
        report = make(
            top1=(math.nan, 1.0),
            teacher=dict(metrics={'accuracy/top1': math.nan}),
        )
        text = json.dumps(report, allow_nan=False)
        assert R.parse_report(text) == report
        assert report['curves']['val/accuracy/top1']['value'] == [None, 1.0]
        assert report['teacher']['metrics'] == {'accuracy/top1': None}

    @pytest.mark.parametrize(
        'text, message',
        [
            ('{"version": 1', 'delimiter'),
            ('[]', 'not a report'),
            ('{"version": 99}', 'version 99, but expected 1'),
            ('{"version": 1}', 'without classes, config'),
        ],
    )
    def test_corrupt(self, text, message):
        with pytest.raises(ValueError, match=message):
            R.parse_report(text)


class TestTable:
    def test_text(self):
        runs = [
            make('eeikd'),
            make('kd_random', top1=(80.0, 93.333), trained_on=''),
        ]
        assert R.format_table(runs).splitlines() == [
            'name       top-1 (last)  top-1 (best)  parameters  trained on',
            '---------  ------------  ------------  ----------  ------------',
            'teacher           99.60             -      21.3 M  -',
            'eeikd             94.00         95.00      11.2 M  2,000 glyphs',
            'kd_random         93.33         93.33      11.2 M  -',
        ]

    def test_different_teachers_are_numbered(self):
        other = make('b', teacher=dict(metrics={'accuracy/top1': 50.0}))
        lines = R.format_table([make('a'), other]).splitlines()[2:]
        assert [line.split('  ')[0] for line in lines] == [
            'teacher 1',
            'teacher 2',
            'a',
            'b',
        ]

    @pytest.mark.parametrize('top1', [(99.6, 98.0), (98.0, 99.6)])
    def test_run_that_made_the_teacher_is_its_row(self, top1):
        own = make(
            'the_teacher',
            top1=top1,
            teacher=None,
            student=dict(architecture='Net-34', parameters=21_328_292),
        )
        lines = R.format_table([own, make('eeikd')]).splitlines()[2:]
        assert [x.split()[0] for x in lines] == ['the_teacher', 'eeikd']
        # Other weights of the same network are no teacher.
        other = make('other', teacher=None, student=own['student'])
        lines = R.format_table([other, make('eeikd')]).splitlines()[2:]
        assert [x.split()[0] for x in lines] == ['teacher', 'other', 'eeikd']

    def test_several_teachers_have_their_names(self):
        report = several_teachers()
        assert R.parse_report(json.dumps(report)) == report
        lines = R.format_table([report, make('eeikd')]).splitlines()[2:]
        assert [re.split(r'  +', line)[:3] for line in lines] == [
            ['teacher first', '97.00', '-'],
            ['teacher second', '98.50', '-'],
            ['teacher', '99.60', '-'],
            ['run', '94.00', '95.00'],
            ['eeikd', '94.00', '95.00'],
        ]
        # A run that made one of them is its row.
        own = make(
            'made',
            top1=(98.5,),
            teacher=None,
            student=dict(architecture='Net-2', parameters=20),
        )
        lines = R.format_table([own, report]).splitlines()[2:]
        assert [re.split(r'  +', line)[0] for line in lines] == [
            'teacher first',
            'made',
            'run',
        ]

    def test_run_without_teacher_and_validation(self):
        lines = R.format_table([R.make_report(run_name='bare')]).splitlines()
        assert lines[2].split() == ['bare', '-', '-', '-', '-']


class TestFigures:
    def test_pyplot_and_the_backend_are_left_alone(self):
        backend = matplotlib.get_backend()
        settings = dict(matplotlib.rcParams)
        R.svg(R.line_figure([([1, 2], [3, 4])], 'epoch'), 'a curve')
        assert plt.get_fignums() == []
        assert matplotlib.get_backend() == backend
        assert dict(matplotlib.rcParams) == settings

    def test_svg_takes_its_colours_from_the_page(self):
        figure = R.line_figure([([1, 2], [3, 4])], 'epoch', reference=5)
        text = R.svg(figure, 'a <curve>')
        assert text.startswith('<svg viewBox=')
        assert 'aria-label="a &lt;curve&gt;"' in text
        assert 'var(--s0)' in text and 'currentColor' in text
        assert re.findall(r'#[0-9a-f]{6}\b|<style|http', text) == []

    def test_svg_is_the_same_each_time(self):
        first, second = (
            R.svg(R.line_figure([([1, 2], [3, 4])], 'epoch'), 'a curve')
            for _ in range(2)
        )
        assert first == second

    def test_wide_ranges_get_a_log_scale(self):
        def scale(values):
            figure = R.line_figure([([1, 2], values)], 'x')
            return figure.axes[0].get_yscale()

        assert scale([1.0, 1000.0]) == 'log'
        assert scale([0.0, 1000.0]) == 'linear'
        assert scale([1.0, 2.0]) == 'linear'

    def test_curve_without_a_finite_value(self):
        text = R.svg(R.line_figure([([1, 2], [None, None])], 'x'), 'x')
        assert 'no finite value' in text

    def test_gaps_stay_gaps(self):
        figure = R.line_figure([([1, 2, 3], [1.0, None, 3.0])], 'x')
        values = figure.axes[0].lines[0].get_ydata()
        np.testing.assert_array_equal(values, [1.0, math.nan, 3.0])

    def test_confidences_up_to_saturation(self):
        uncertainty = np.array([2.0, 0.5, 1e-4, 1e-9, 0.0])
        figure = R.confidence_figure(
            uncertainty,
            predicted=np.array([0, 1, 1, 0, 2]),
            candidates=uncertainty < 0.1,
            indices=np.array([2, 3]),
            delta=math.exp(-1e-4),
            gamma=0.6,
            num_classes=3,
        )
        upper, lower = figure.axes
        assert '|X| = 5' in upper.get_title(loc='left')
        assert "|X'| = 3" in upper.get_title(loc='left')
        assert "|X''| = 2" in upper.get_title(loc='left')
        # The most saturated image is at the end of the axis, not beyond it.
        assert upper.get_xlim() == (0.0, 12.0)
        assert upper.lines[0].get_xdata()[0] == pytest.approx(4.0, abs=1e-3)
        heights = [bar.get_height() for bar in lower.patches]
        assert heights == [1, 1, 0]
        image = R.render(figure)
        assert image.dtype == np.uint8 and image.shape[2] == 3
        assert R.png(image).startswith(b'\x89PNG')

    def test_nothing_chosen_and_no_single_threshold(self):
        figure = R.confidence_figure(
            np.array([1.0, 2.0]),
            np.array([0, 0]),
            np.zeros(2, dtype=bool),
            np.zeros(0, dtype=np.int64),
            delta=math.nan,
            gamma=0.5,
            num_classes=1,
        )
        assert not figure.axes[0].lines
        R.render(figure)

    def test_montage(self):
        image = np.zeros((4, 4, 3), dtype=np.uint8)
        rows = [
            ('chosen', [R.Picked(image, 'a $x class', 0.1)] * 2),
            ('none here', []),
        ]
        figure = R.montage_figure(rows, columns=3)
        (axes,) = figure.axes
        label = 'a $x class\n90.5 %'
        assert texts(axes) == ['chosen', label, label, 'none here']
        assert len(axes.images) == 2
        R.render(figure)

    def test_montage_wraps(self):
        image = np.zeros((4, 4, 3), dtype=np.uint8)
        rows = [('a', [R.Picked(image)] * 5), ('b', [R.Picked(image)])]
        (axes,) = R.montage_figure(rows, columns=3).axes
        lefts, _, bottoms, _ = np.transpose(
            [x.get_extent() for x in axes.images]
        )
        assert len(set(lefts)) == 3
        assert [*lefts[:3], *lefts[:2], lefts[0]] == [*lefts]
        assert len(set(bottoms[:3])) == len(set(bottoms[3:5])) == 1
        assert bottoms[0] < bottoms[3] < bottoms[5]

    def test_montage_keeps_proportions_and_pixels(self):
        image = np.zeros((2, 4, 3), dtype=np.uint8)
        image[0, 3] = 255, 0, 0
        figure = R.montage_figure([('a', [R.Picked(image, 'x')])], columns=1)
        left, right, bottom, top = figure.axes[0].images[0].get_extent()
        assert right - left == pytest.approx(2 * (bottom - top))
        drawn = R.render(figure)
        assert (drawn == (255, 0, 0)).all(-1).any()
        # The red pixel is the top right one of the image as drawn.
        rows, columns = np.nonzero((drawn == (255, 0, 0)).all(-1))
        dpi = figure.dpi
        assert rows.min() == pytest.approx(top * dpi, abs=1.5)
        assert columns.max() == pytest.approx(right * dpi, abs=2)
        assert columns.min() == pytest.approx(
            (left + 0.75 * (right - left)) * dpi, abs=2
        )

    def test_label_without_a_confidence_and_none_at_all(self):
        image = np.zeros((4, 4, 3), dtype=np.uint8)
        rows = [('a', [R.Picked(image, 'cat'), R.Picked(image)])]
        assert texts(R.montage_figure(rows, 2).axes[0]) == ['a', 'cat']


class TestConfusion:
    def test_small_has_numbers_names_and_tool_tips(self):
        text = R.confusion_svg([[4, 1], [0, 5]], ['<cat>', 'dog'])
        assert (
            '<title>true &lt;cat&gt;, predicted dog: 1 (20.0%)</title>' in text
        )
        assert text.count('<rect') == 4
        assert '<cat>' not in text

    def test_errors_are_relative_to_the_largest(self):
        text = R.confusion_svg([[96, 4], [1, 99]])
        wrong = re.findall(r'class="wrong"[^>]*fill-opacity="([\d.]+)"', text)
        assert [float(x) for x in wrong] == [0.65, 0.325]

    def test_hundred_classes(self):
        matrix = np.eye(100, dtype=int) * 9
        matrix[3, 5] = 1
        text = R.confusion_svg(matrix)
        assert text.count('h1v1h-1z') == 101
        assert 'M5 3h1v1h-1z' in text

    def test_class_without_an_image_and_without_an_error(self):
        text = R.confusion_svg([[0, 0], [0, 3]])
        assert 'nan' not in text.lower()

    def test_thousand_classes_stay_small(self):
        matrix = np.random.default_rng(0).integers(0, 2, (1000, 1000))
        matrix[np.random.default_rng(1).random((1000, 1000)) < 0.9] = 0
        assert len(R.confusion_svg(matrix)) < 1_000_000


class TestPage:
    PICTURES = {R.CONFIDENCE_PICTURE: b'PNG1', R.MONTAGE_PICTURE: b'PNG2'}
    MOSAICS = {
        R.FIRST_MOSAIC_PICTURE: b'PNG3',
        R.LATEST_MOSAIC_PICTURE: b'PNG4',
    }

    def test_one_run(self):
        page = R.render_page(
            [make(config='lr = 0.1', config_name='eeikd.py')],
            [self.PICTURES],
        )
        assert page.count('data:image/png;base64,') == 2
        assert '>94.00<' in page and '>99.60<' in page
        assert '>-5.60<' in page and '>1.9 x<' in page
        assert '<code>train/loss</code>' in page
        assert '9 of 10 images right' in page
        assert 'lr = 0.1' in page

    def test_several_teachers(self):
        page = R.render_page([several_teachers()], [{}])
        stats = re.findall(r'<b>([^<]*)</b><span>([^<]*)</span>', page)
        assert stats[2:] == [
            ('97.00', 'teacher first'),
            ('98.50', 'teacher second'),
            ('-4.50', 'student minus best teacher'),
        ]
        assert '<td>teacher second</td><td>Net-2</td>' in page

    def test_nothing_is_loaded_from_elsewhere(self):
        page = R.render_page([make()], [self.PICTURES])
        sources = re.findall(r'(?:src|href)="([^"]{0,5})', page)
        assert {s[:1] for s in sources} <= {'#', 'd'}
        assert not re.search(r'<script|<link|@import|url\((?!#)', page)

    def test_text_of_the_user_is_escaped(self):
        evil = '<script>alert("&")</script>'
        report = make(
            evil,
            config=evil,
            config_name=evil,
            trained_on=evil,
            metric=evil,
            classes=[evil, evil],
            curves={evil: dict(iteration=[1], value=[1.0])},
            student=dict(architecture=evil, parameters=1),
        )
        page = R.render_page([report, report], [{}, {}])
        assert '<script' not in page
        page = R.render_page([report], [{}])
        assert '<script' not in page

    def test_bare_run(self):
        page = R.render_page([R.make_report(run_name='bare')], [{}])
        assert '<h1>bare</h1>' in page
        assert 'Confusion' not in page and 'Validation acc' not in page
        assert 'None' not in page and 'nan' not in page.lower()

    def test_all_values_missing(self):
        report = make(
            top1=(math.nan, math.nan),
            teacher=dict(metrics={'accuracy/top1': math.nan}),
            curves={'train/loss': dict(iteration=[1], value=[None])},
        )
        page = R.render_page([report], [{}])
        assert 'no finite value' in page
        assert '>None<' not in page and '>nan<' not in page.lower()

    def test_many_classes_get_a_list_of_pairs(self):
        matrix = np.eye(21, dtype=int) * 3
        matrix[2, 7] = 1
        names = [f'name{i}' for i in range(21)]
        report = make(confusion=matrix, classes=names)
        page = R.render_page([report], [{}])
        assert '<td>name2</td><td>name7</td><td class="n">1</td>' in page
        assert 'Most confused' not in R.render_page([make()], [{}])

    def test_two_runs(self):
        runs = [make('first'), make('second', epochs=0)]
        page = R.render_page(runs, [self.PICTURES, {}])
        assert '<h1>2 runs</h1>' in page
        assert page.count('<h3>Confusion matrix</h3>') == 2
        assert page.count('data:image/png;base64,') == 2
        # Not both count epochs, so the axis is iterations.
        figure = page[: page.index('<h2>first')]
        assert '>iteration</text>' in figure

    def test_synthetic_images(self):
        def sources(page):
            return re.findall(r'base64,([^"]*)"', page)

        page = R.render_page([make()], [self.MOSAICS])
        assert '<h2>Synthetic images</h2>' in page
        assert 'Selection of the training' not in page
        assert sources(page) == ['UE5HMw==', 'UE5HNA==']
        # After the selection, and in each run's own part.
        both = {**self.MOSAICS, **self.PICTURES}
        page = R.render_page(
            [make('a'), make('b'), make('c')], [self.PICTURES, both, {}]
        )
        part = page[page.index('<h2>b') : page.index('<h2>c')]
        assert re.findall('<h3>(S[^<]*)</h3>', part) == [
            'Selection of the training images',
            'Synthetic images',
        ]
        wanted = ['UE5HMQ==', 'UE5HMg==', 'UE5HMw==', 'UE5HNA==']
        assert sources(part) == wanted
        assert page.count('Synthetic images') == 1

    def test_only_the_first_picture(self):
        first = {R.FIRST_MOSAIC_PICTURE: b'PNG3'}
        page = R.render_page([make()], [first])
        assert 'First picture' in page and 'Latest picture' not in page

    def test_more_runs_than_colours(self):
        page = R.render_page([make(f'r{i}') for i in range(8)], [{}] * 8)
        keys = set(re.findall(r'<span><svg.*?</svg>', page))
        assert len(keys) == 9


def test_files(tmp_path):
    folder = tmp_path / 'a' / 'selection'
    R.write_file(folder / R.MONTAGE_PICTURE, b'png')
    R.write_file(tmp_path / 'a' / 'x.html', 'é')
    assert (tmp_path / 'a' / 'x.html').read_bytes() == b'\xc3\xa9'
    assert [p.name for p in folder.iterdir()] == [R.MONTAGE_PICTURE]
    assert R.read_pictures(tmp_path / 'a') == {R.MONTAGE_PICTURE: b'png'}
    assert R.read_pictures(tmp_path / 'b') == {}
    R.write_file(tmp_path / 'a' / 'mosaic' / 'latest.png', b'late')
    R.write_file(tmp_path / 'b' / 'mosaic' / 'first.png', b'early')
    R.write_file(tmp_path / 'b' / 'selection' / 'first.png', b'of another')
    assert R.read_pictures(tmp_path / 'a') == {
        R.MONTAGE_PICTURE: b'png',
        R.LATEST_MOSAIC_PICTURE: b'late',
    }
    assert R.read_pictures(tmp_path / 'b') == {
        R.FIRST_MOSAIC_PICTURE: b'early'
    }

"""The page of the knowledge points: its numbers, its pictures, its claims."""

import base64
import html
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from browser import dumped_dom, find_browser, screenshot
from PIL import Image

from mmkd_plugin.explain.explanation import Explanation, NetworkResult
from mmkd_plugin.explain.hypotheses import Hypothesis, spread
from mmkd_plugin.explain.knowledge_points import (
    foreground_grid,
    knowledge_points,
    learning_speed,
    stability,
)
from mmkd_plugin.explain.page import counted_verdicts, render_explanation
from mmkd_plugin.explain.pictures import (
    colour_bar,
    entropy_limits,
    entropy_picture,
    foreground_picture,
)
from mmkd_plugin.explain.protocol import Protocol

SIDE, CELLS, EPOCHS = 32, 8, [0, 1, 2, 5]
needs_browser = pytest.mark.skipif(
    find_browser() is None, reason='there is no Chromium to look with'
)


def masks_of(count):
    masks = np.zeros((count, SIDE, SIDE), bool)
    masks[:, 8:24, 8:24] = True
    return masks


def network(count, seed, share, around, pace=1.0, epochs=EPOCHS):
    """Entropies that fall over the epochs, in some cells of two shares."""
    generator = torch.Generator().manual_seed(seed)
    foreground = foreground_grid(
        torch.from_numpy(masks_of(count)), (CELLS, CELLS), (SIDE, SIDE)
    )
    shape = (len(epochs), count, CELLS, CELLS)
    entropy = -2.7 + 0.05 * torch.randn(shape, generator=generator)
    used = torch.rand(shape[1:], generator=generator) < (
        torch.where(foreground, share, around)
    )
    paces = pace * (0.1 + torch.rand(count, 1, 1, generator=generator))
    for place, epoch in enumerate(epochs):
        depth = ((1 + epoch) * paces).clamp(max=1.0)
        entropy[place] -= depth * used
    points = knowledge_points(entropy, foreground)
    distances = [0.5 * epoch for epoch in epochs]
    return NetworkResult(
        epochs=list(epochs),
        distances=distances,
        entropy=entropy,
        reached=torch.ones(len(epochs), count, dtype=torch.bool),
        points=points,
        speed=learning_speed(points.n_fg, torch.tensor(distances)),
        stability=stability(points.foreground_points),
        without_energy=[0] * len(epochs),
        accuracy=None,
    )


def explanation(count=12, **changes):
    networks = dict(
        teacher=replace(
            network(count, 1, 0.8, 0.1, epochs=[5]),
            epochs=[0],
            distances=None,
            speed=None,
            stability=None,
        ),
        student=replace(network(count, 2, 0.7, 0.1), accuracy=91.256),
        baseline=network(count, 3, 0.4, 0.2, pace=0.16),
    )
    grey = np.full((count, SIDE, SIDE, 3), 128, np.uint8)
    masks = masks_of(count)
    values = dict(
        networks=networks,
        images=grey,
        masks=masks,
        foreground=foreground_grid(
            torch.from_numpy(masks), (CELLS, CELLS), (SIDE, SIDE)
        ),
        names=[f'bird {i}.png' for i in range(count)],
        labels=[i % 3 for i in range(count)],
        protocol=Protocol(layer='backbone.layer4', grid=(8, 8)).as_dict(),
        image_set='some birds',
        num_images=count + 3,
        dropped={'no cell of the foreground': ['a', 'b'], 'no energy': ['c']},
        released_filter=dict(
            applied=False, from_epoch=40, limit=50, passed=None, kept=None
        ),
        notes=[],
    )
    return Explanation(**{**values, **changes})


class _Reader(HTMLParser):
    """Tables as lists of rows of texts, pictures, and open tags."""

    def __init__(self):
        super().__init__()
        self.tables, self.pictures, self.open, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ('img', 'meta'):
            self.open.append(tag)
        if tag == 'table':
            self.tables.append([])
        elif tag == 'tr':
            self.tables[-1].append([])
        elif tag in ('td', 'th'):
            self.tables[-1][-1].append('')
        elif tag == 'img':
            self.pictures.append(dict(attributes))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {'td', 'th'} & {*self.open}:
            self.tables[-1][-1][-1] += data


def read(page):
    reader = _Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def decode(picture):
    data = picture['src'].removeprefix('data:image/png;base64,')
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert('RGB'))


def render(explained, title='Birds', examples=1):
    return render_explanation(explained, title=title, examples=examples)


def answer_of(page):
    return re.search('<p class="answer">(.*?)</p>', page).group(1)


def test_table_holds_means_and_their_errors():
    explained = explanation()
    page = read(render(explained))
    head, teacher, student, baseline = page.tables[1]
    assert head == [
        *('network', 'top-1', 'Nfg', 'Nbg', 'λ', 'Dmean', 'Dstd'),
        *('\u03c1', 'read at'),
    ]
    result = explained.networks['student']
    n_fg = result.points.n_fg[-1].double().numpy()
    error = n_fg.std(ddof=1) / np.sqrt(12)
    assert student[:2] == ['student', '91.26 %']
    assert student[2] == f'{n_fg.mean():.1f} ± {error:.1f}'
    assert student[5].startswith(f'{result.speed.d_mean.item():.3f}')
    rho = result.stability.mean_rho.item()
    assert student[7].startswith(f'{rho:.3f} ± ')
    assert student[8] == 'epoch 5'
    assert baseline[1] == '-'
    assert teacher[5:] == ['-', '-', '-', '-']
    assert teacher[2].startswith(
        f'{explained.networks["teacher"].points.mean_n_fg.item():.1f} ± '
    )


def test_error_of_a_spread_is_that_of_repeated_samples():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(4000, 60, generator=generator).double()
    errors = torch.tensor([spread(x).error for x in samples[:200]])
    observed = samples.std(dim=1, correction=0).std()
    assert errors.mean().item() == pytest.approx(observed.item(), rel=0.05)


def test_hypotheses_with_clear_differences():
    page = render(explanation())
    rows = read(page).tables[0][1:]
    assert [len(row) for row in rows] == [3, 3, 3]
    assert rows[0][2].startswith('✓ holds')
    student, baseline = (
        explanation().networks[name] for name in ('student', 'baseline')
    )
    assert student.speed.d_mean < baseline.speed.d_mean
    difference = (
        (student.points.n_fg[-1] - baseline.points.n_fg[-1]).double().mean()
    )
    assert f'difference {difference:+.1f} ± ' in rows[0][1]
    verdicts = [row[2] for row in rows]
    holding = sum(verdict.startswith('✓') for verdict in verdicts)
    words = 'hold here' if holding > 1 else 'holds here'
    mean = student.points.mean_n_fg[-1].item()
    answer = answer_of(page)
    assert answer.startswith(f'The student has {mean:.1f} knowledge points')
    assert f'Of the 3 hypotheses of the paper, {holding} {words}' in answer


def test_hypotheses_the_other_way_around():
    given = explanation()
    swapped = dict(
        student=given.networks['baseline'], baseline=given.networks['student']
    )
    page = render(replace(given, networks=swapped))
    rows = read(page).tables[0][1:]
    assert rows[0][2].startswith('✗ does not hold')
    assert 'Nfg' in rows[0][2]


def test_equal_networks_decide_nothing():
    given = explanation()
    student = given.networks['student']
    networks = dict(student=student, baseline=student)
    page = render(replace(given, networks=networks))
    rows = read(page).tables[0][1:]
    assert [row[2].split('no clear')[0] for row in rows] == (
        ['? cannot be said'] * 3
    )
    assert 'hypotheses of the paper, 3 cannot be judged.' in answer_of(page)


def test_page_tells_what_the_figures_are_from():
    given = explanation()
    student = replace(
        given.networks['student'],
        checkpoints=['run/epoch_0.pth', 'run/epoch_5.pth'],
        granularity='step',
        parameters=['a', 'b'],
        feature_length=4096,
        probes=64,
    )
    page = render(
        replace(given, networks={**given.networks, 'student': student})
    )
    assert (
        'run/epoch_5.pth and 1 before it; a feature of 4,096 numbers; 64 '
        'directions; weight distance from step to step, over 2 parameters'
    ) in page


def verdicts_of(explained):
    return [row[2] for row in read(render(explained)).tables[0][1:]]


def test_distances_of_different_kinds_are_not_compared():
    verdicts = verdicts_of(explanation(comparable_distances=False))
    assert verdicts[0].startswith('✓ holds')
    assert verdicts[1].startswith('? cannot be said')
    assert 'not of the same kind' in verdicts[1]
    assert 'not of the same kind' not in verdicts[2]


def test_more_looks_see_more_detours():
    given = explanation()
    student = given.networks['student']
    first = {**given.networks, 'student': network(12, 2, 0.7, 0.1)}
    more = network(12, 2, 0.7, 0.1, epochs=[*EPOCHS, 7])
    then = {**given.networks, 'student': more}
    assert (
        'numbers of checkpoints'
        not in verdicts_of(replace(given, networks=first))[2]
    )
    assert (
        'different numbers of checkpoints'
        in (verdicts_of(replace(given, networks=then))[2])
    )
    # A phase in which the weights stay shows nothing new.
    stayed = replace(more, distances=[*student.distances, 2.5])
    then = {**given.networks, 'student': stayed}
    assert (
        'numbers of checkpoints'
        not in verdicts_of(replace(given, networks=then))[2]
    )


def test_none_holds_is_a_sentence():
    def counted(*verdicts):
        return counted_verdicts(
            [Hypothesis('', [], verdict, '') for verdict in verdicts]
        ).removeprefix('Of the 3 hypotheses of the paper, ')

    holds, fails, unknown = 'holds', 'does not hold', 'cannot be said'
    assert counted(holds, holds, fails) == '2 hold here, 1 does not.'
    assert counted(holds, fails, fails) == '1 holds here, 2 do not.'
    assert counted(fails, fails, unknown) == (
        '2 do not hold here, 1 cannot be judged.'
    )
    assert counted(fails, unknown, unknown) == (
        '1 does not hold here, 2 cannot be judged.'
    )


def test_few_images_decide_nothing():
    page = render(explanation(count=9))
    for row in read(page).tables[0][1:]:
        assert '9 images, and at least 10 are needed' in row[2]


def test_other_checkpoints_leave_detours_open():
    given = explanation()
    longer = network(12, 3, 0.4, 0.2, 0.16, [0, 1, 2, 5, 10])
    networks = {**given.networks, 'baseline': longer}
    page = render(replace(given, networks=networks))
    rows = read(page).tables[0][1:]
    assert 'different numbers of checkpoints' in rows[2][2]
    assert 'checkpoints' not in rows[1][2]


def test_one_checkpoint_has_no_course():
    networks = dict(
        student=network(12, 2, 0.7, 0.1, epochs=[5]),
        baseline=network(12, 3, 0.4, 0.2, epochs=[5]),
    )
    page = render(explanation(networks=networks))
    rows = read(page).tables[0][1:]
    assert rows[0][2].startswith('✓ holds')
    for row in rows[1:]:
        assert row[
            2
        ] == '? cannot be saidthis needs several checkpoints of ' + ('both')


@pytest.mark.parametrize('missing', ['teacher', 'student', 'baseline'])
def test_one_network_less(missing):
    given = explanation()
    networks = {k: v for k, v in given.networks.items() if k != missing}
    page = render(replace(given, networks=networks))
    reader = read(page)
    assert [row[0] for row in reader.tables[1][1:]] == list(networks)
    # An image with two maps, and the colour bar.
    assert len(reader.pictures) == 3 + 1
    compared = 'Of the 3 hypotheses' in answer_of(page)
    assert compared == (missing == 'teacher')
    # Each network keeps its colour.
    colours = {'student': 'var(--s0)', 'baseline': 'var(--s1)'}
    for name, colour in colours.items():
        assert (f'stroke: {colour}' in page) == (name != missing)


def test_teacher_alone():
    networks = dict(teacher=explanation().networks['teacher'])
    page = render(explanation(networks=networks))
    assert answer_of(page).startswith('The teacher has ')
    assert 'one of the two is not here' in answer_of(page)
    assert 'Over the training' not in page


def test_maps_have_texts_and_counts():
    explained = explanation()
    page = read(render(explained, examples=8))
    assert len(page.pictures) == 8 * 4 + 1
    assert all(picture['alt'] for picture in page.pictures)
    # Evenly spread: of 12 images, the first and the last are there.
    rows = page.tables[2][1:]
    assert rows[0][0] == 'bird 0.pngclass 0'
    assert rows[-1][0] == 'bird 11.pngclass 2'
    points = explained.networks['student'].points
    assert rows[0][2] == (
        f'Nfg {points.n_fg[-1, 0]}, Nbg {points.n_bg[-1, 0]}'
    )


def test_number_of_examples():
    explained = explanation()
    for examples, shown in ((0, 0), (1, 1), (5, 5), (99, 12)):
        page = read(render(explained, examples=examples))
        assert len(page.pictures) == (4 * shown + 1 if shown else 0)
    with pytest.raises(
        ValueError, match='examples must be a finite number and >= 0'
    ):
        render(explained, examples=-1)


def test_nothing_is_loaded_and_nothing_runs():
    page = render(explanation())
    # Names of XML are no addresses that are loaded.
    loaded = re.sub(r'xmlns(:\w+)?="[^"]*"', '', page)
    assert 'http' not in loaded
    assert 'url(' not in re.sub(r'url\(#', '', page)
    assert not {'script', 'link', 'iframe'} & read(page).tags
    assert page == render(explanation())


def test_strange_names_stay_text():
    evil = '<b>"x" & \'y\'</b>'
    names = [evil] + [f'{i}' for i in range(11)]
    page = render(
        explanation(
            names=names,
            image_set=evil,
            notes=[evil],
            dropped={evil: [evil]},
            protocol=dict(layer=evil),
        ),
        title=evil,
    )
    assert '<b>"x"' not in page
    reader = read(page)
    assert reader.tables[2][1][0] == f'{evil}class 0'
    assert reader.pictures[1]['alt'] == f'{evil}, foreground outlined'
    assert ['layer', evil] in reader.tables[4]
    assert f'<h1>{html.escape(evil)}</h1>' in page


def test_no_image_that_counts_shows_dashes():
    """Means over no image are NaN."""
    given = explanation()
    foreground = torch.zeros_like(given.foreground)
    networks = {}
    for name, result in given.networks.items():
        points = knowledge_points(result.entropy, foreground)
        assert points.mean_n_fg.isnan().all()
        networks[name] = replace(result, points=points, accuracy=float('nan'))
    page = render(replace(given, networks=networks, foreground=foreground))
    assert read(page).tables[1][2][1:5] == ['-'] * 4
    assert answer_of(page).startswith('No image has cells of foreground')
    assert 'nan' not in re.sub(r'base64,[^"]*', '', page).lower()


def test_one_image():
    page = render(explanation(count=1))
    assert '±' not in read(page).tables[1][2][2]
    assert 'nan' not in re.sub(r'base64,[^"]*', '', page).lower()


def test_what_was_left_out_is_said():
    given = explanation(notes=['The seeds differ.'])
    given.networks['student'].reached[0, :4] = False
    given.networks['student'].reached[-1, 0] = False
    given.networks['baseline'].without_energy[1] = 2
    page = render(given)
    assert '15 images looked at, 12 images counted.' in page
    assert '2 left out: no cell of the foreground' in page
    reader = read(page)
    flags = {row[0]: row[1:] for row in reader.tables[5][1:]}
    assert flags['teacher'] == ['1', '0', '0', '0', '-']
    assert flags['student'] == ['4', '1', '4', '0', '0']
    assert flags['baseline'][3] == '2'
    assert 'the target entropy was not reached' in reader.tables[2][1][2]
    assert 'the target entropy was not reached' not in reader.tables[2][1][3]
    assert '<li>The seeds differ.</li>' in page
    assert '<a href="#notes">a remark</a>' in page
    assert ['constants', 'lam: 7'] in [
        [name, value.split(', ')[1]]
        for name, value in reader.tables[4]
        if name == 'constants'
    ]


def test_released_filter_is_reported():
    known = dict(
        applied=False,
        from_epoch=4,
        limit=50,
        passed=dict(student=7, baseline=9),
        kept=6,
    )
    page = render(explanation(released_filter=known))
    assert 'is not applied' in page
    assert 'would pass: student 7, baseline 9. Kept would be 6.' in page
    page = render(explanation(released_filter={**known, 'applied': True}))
    assert '<b>is applied</b>' in page
    assert 'Images that pass: student 7, baseline 9. Kept are 6.' in page
    page = render(explanation())
    assert 'No checkpoint is late enough' in page


class TestPictures:
    def test_cells_have_the_colours_of_the_bar(self):
        entropy = torch.tensor([[-4.0, -2.0], [-3.0, -5.0]])
        none = torch.zeros(2, 2, dtype=torch.bool)
        grey = np.full((16, 16, 3), 128, np.uint8)
        picture = entropy_picture(
            grey, none.numpy().repeat(8, 0).repeat(8, 1), entropy, none, none,
            (-4.0, -2.0),
        )  # fmt: skip
        bar = colour_bar(257)[0]
        assert picture.shape == (448, 448, 3)
        assert picture.dtype == np.uint8
        corners = picture[[0, 0, -1, -1], [0, -1, 0, -1]]
        # Below the scale is its low end.
        assert np.array_equal(corners, bar[[0, -1, 128, 0]])
        assert np.array_equal(picture[223, 223], bar[0])
        assert np.array_equal(picture[224, 223], bar[128])
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3

    def test_low_is_bright_and_high_is_dark(self):
        lightness = colour_bar(64)[0] @ (0.299, 0.587, 0.114)
        assert (np.diff(lightness) < 0).all()

    def test_marks_tell_foreground_from_background(self):
        cell = torch.zeros(2, 2, dtype=torch.bool)
        first, last = cell.clone(), cell.clone()
        first[0, 0], last[1, 1] = True, True
        picture = entropy_picture(
            np.full((32, 32, 3), 128, np.uint8),
            np.zeros((32, 32), bool),
            torch.full((2, 2), -3.0),
            first,
            last,
            (-4.0, -2.0),
        )
        white, black = (255, 255, 255), (0, 0, 0)
        assert tuple(picture[112, 112]) == white
        assert tuple(picture[336, 336]) == black
        bare = colour_bar(257)[0, 128]
        for y, x in ((112, 336), (336, 112)):
            patch = picture[y - 20 : y + 20, x - 20 : x + 20]
            assert (patch == bare).all()

    def test_outline_follows_the_mask(self):
        image = np.full((32, 32, 3), 128, np.uint8)
        mask = np.zeros((32, 32), bool)
        mask[8:16, :16] = True
        picture = foreground_picture(image, mask)
        white = (picture == 255).all(-1)
        inside = mask.repeat(14, 0).repeat(14, 1)
        assert white.any()
        assert not (white & ~inside).any()
        rows, columns = white.nonzero()
        # One pixel within the mask, at the edge of the picture as well.
        assert (rows.min(), rows.max()) == (8 * 14 + 1, 16 * 14 - 2)
        assert (columns.min(), columns.max()) == (1, 16 * 14 - 2)
        assert tuple(picture[150, 100]) == (128, 128, 128)

    def test_large_images_become_smaller(self):
        image = np.zeros((300, 600, 3), np.uint8)
        picture = foreground_picture(image, np.ones((300, 600), bool))
        assert picture.shape == (224, 448, 3)

    def test_limits_leave_out_single_low_cells(self):
        entropy = torch.linspace(-3, -2, 1000)
        entropy[0] = -9
        low, high = entropy_limits([entropy[:500], entropy[500:]])
        assert low == pytest.approx(-2.99, abs=1e-3)
        assert high == pytest.approx(-2.0)
        low, high = entropy_limits([torch.full((4, 4), -2.8)])
        assert low < -2.8 < high


@needs_browser
def test_browser_shows_maps_and_numbers(tmp_path):
    explained = explanation()
    path = tmp_path / 'page.html'
    path.write_text(render(explained, examples=8), 'utf-8')
    dom = read(dumped_dom(path))
    student = explained.networks['student'].points.mean_n_fg[-1].item()
    assert dom.tables[1][2][2].startswith(f'{student:.1f} ± ')
    assert len(dom.tables[2][1:]) == 8

    shot = screenshot(path, tmp_path / 'shot.png', (1100, 3200))
    assert shot.shape == (3200, 1100, 3)
    # The bar is there, over the whole range of its colours.
    for colour in colour_bar()[0, 4::31]:
        assert _painted(shot, colour) > 50
    # So are the cells of the maps, which are far larger than the bar.
    maps = decode(dom.pictures[3])
    cell = maps[20, 20]
    assert _painted(shot, cell) > 1000


def _painted(shot, colour):
    away = np.abs(shot.astype(int) - colour.astype(int)).max(-1)
    return (away <= 6).sum()


@needs_browser
def test_browser_needs_no_page_scroll_on_a_phone(tmp_path):
    long = 'a_very_long_name' * 8
    page = render(
        explanation(
            names=[long] * 12,
            image_set=long,
            notes=[long],
            dropped={long: [long]},
        ),
        title=long,
    )
    # A window is never as narrow as that; a frame can be.
    path = tmp_path / 'phone.html'
    path.write_text(
        '<meta charset="utf-8"><iframe id="phone" style="width: 360px; '
        f'height: 800px; border: 0" srcdoc="{html.escape(page)}"></iframe>'
        '<p id="width"></p><script>onload = () => { width.textContent = '
        '(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)'
        '(phone.contentDocument.documentElement) }</script>',
        'utf-8',
    )
    dom = dumped_dom(path)
    assert re.search('<p id="width">(.*?)</p>', dom).group(1) == '0'

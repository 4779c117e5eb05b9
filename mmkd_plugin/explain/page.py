"""The HTML page about the knowledge points of some networks."""

import base64
import html
import math
from collections.abc import Iterable, Sequence

import numpy as np

from mmkd_plugin.engine.report import line_figure, png, svg
from mmkd_plugin.engine.report.page import key_html
from mmkd_plugin.engine.report.style import STYLE
from mmkd_plugin.utils.checks import check_count

from .explanation import Explanation, NetworkResult
from .hypotheses import (
    CLEAR,
    D_MEAN,
    D_STD,
    FAILS,
    FEWEST,
    HOLDS,
    LAMBDA,
    N_BG,
    N_FG,
    OPEN,
    RHO,
    UNKNOWN,
    Estimate,
    Hypothesis,
    counted_images,
    judge_hypotheses,
    known_figures,
)
from .pictures import (
    colour_bar,
    entropy_limits,
    entropy_picture,
    foreground_picture,
)

# The place of a network's colour in all figures, there or not.
_CURVES = ('student', 'baseline')
_SYMBOLS = {HOLDS: '✓', FAILS: '✗', OPEN: '?'}
_DECIMALS = {N_FG: 1, N_BG: 1, LAMBDA: 3, D_MEAN: 3, D_STD: 3, RHO: 3}

_REFERENCES = {
    'background_dataset': 'the mean over the background cells of all images',
    'background_image': 'the mean over the background cells of its image',
    'image': 'the mean over all cells of its image',
}
_DISC = (
    '<svg viewBox="0 0 26 8"><circle cx="13" cy="4" r="3" fill="#fff" '
    'stroke="#000" stroke-width="1.2"/></svg>'
)
_CROSS = (
    '<svg viewBox="0 0 26 8"><path d="M10 1l6 6M16 1l-6 6" stroke="#fff" '
    'stroke-width="3"/><path d="M10 1l6 6M16 1l-6 6" stroke="#000" '
    'stroke-width="1.4"/></svg>'
)
_OUTLINE = (
    '<svg viewBox="0 0 26 8"><path d="M0 4h26" stroke="#000" '
    'stroke-width="5"/><path d="M0 4h26" stroke="#fff" '
    'stroke-width="2.4"/></svg>'
)

_OWN_STYLE = """
.answer { font-size: 1.2rem; line-height: 1.45; max-width: 40em;
  margin: 0 0 20px; }
.text { white-space: normal; }
.text td, .text td:nth-child(2) { white-space: normal; min-width: 9em; }
.text td:first-child { min-width: 7em; }
.verdict { white-space: nowrap; }
td small, td div { display: block; }
td.n small { display: inline; }
td div { white-space: nowrap; }
td div + div { margin-top: 6px; }
figure + .maps { margin-top: 14px; }
.scale .ends :last-child { text-align: right; }
sub { line-height: 0; font-size: .75em; }
.figures td.n, .figures th.n { padding-right: 16px; }
.curves { display: grid; gap: 14px; grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 420px), 1fr)); }
.curves figure { margin: 0; }
.maps th, .maps td { padding: 8px 8px 10px 0; vertical-align: top; }
.maps td { width: 25%; min-width: 164px; white-space: normal;
  overflow-wrap: anywhere; font-size: .875rem; line-height: 1.4; }
.maps img { width: 100%; margin: 0 0 6px; border-radius: 4px; }
.scale { max-width: 520px; margin: 12px 0 0; }
.scale img { width: 100%; height: 16px; border-radius: 3px; }
.scale .ends { font-size: .8125rem; font-variant-numeric: tabular-nums; }
.plain { padding-left: 1.2em; max-width: 46em; }
.plain li { margin: 6px 0; }
h1, .lead, .plain, summary, .names { overflow-wrap: anywhere; }
"""


def render_explanation(
    explanation: Explanation, *, title: str, examples: int = 8
) -> str:
    """Write one self-contained page about the knowledge points.

    Args:
        explanation (Explanation): What was counted.
        title (str): The title of the page.
        examples (int): How many images to show, evenly spread over the set.
            0 shows none. Defaults to 8.

    Returns:
        str: HTML that loads nothing from elsewhere and runs no script.

    Raises:
        ValueError: If ``examples`` is no count.
    """
    check_count('examples', examples, least=0)
    hypotheses = judge_hypotheses(explanation)
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, '
        'initial-scale=1">\n'
        f'<title>{html.escape(title)} - knowledge points</title>\n'
        f'<style>{STYLE}{_OWN_STYLE}</style>\n</head>\n<body>\n<main>\n'
        f'<h1>{html.escape(title)}</h1>\n',
        _lead_html(explanation),
        _answer_html(explanation, hypotheses),
        _hypotheses_html(hypotheses),
        _table_html(explanation.networks),
        _maps_html(explanation, examples),
        _curves_html(explanation.networks),
        _meaning_html(explanation),
        _protocol_html(explanation),
    ]
    return ''.join(parts) + '</main>\n</body>\n</html>\n'


def _shown(symbol: str, value: float, sign: str = '') -> str:
    """Write a figure; a dash where it is not known."""
    if not math.isfinite(value):
        return '-'
    return f'{value:{sign},.{_DECIMALS[symbol]}f}'


def _lead_html(explanation: Explanation) -> str:
    names = ', '.join(explanation.networks)
    counted = counted_images(len(explanation.names))
    lead = f'{explanation.image_set} · {counted} · {names}'
    return f'<p class="lead">{html.escape(lead)}</p>\n'


def _answer_html(
    explanation: Explanation, hypotheses: Sequence[Hypothesis]
) -> str:
    found = {
        name: _shown(N_FG, network.points.mean_n_fg[-1].item())
        for name, network in explanation.networks.items()
        if math.isfinite(network.points.mean_n_fg[-1].item())
    }
    # The comparison is between these; a teacher is in the table.
    order = [name for name in _CURVES if name in found] or list(found)
    if not order:
        answer = 'No image has cells of foreground and of background.'
    else:
        first, *rest = order
        answer = (
            f'The {first} has {found[first]} knowledge points on the '
            f'foreground of an image on average'
        )
        answer += ''.join(f', the {name} {found[name]}' for name in rest)
        answer += '.'
    if hypotheses[0].comparisons:
        answer += ' ' + counted_verdicts(hypotheses)
    else:
        answer += (
            ' The hypotheses of the paper are about a student against a '
            'baseline, and one of the two is not here.'
        )
    notes = len(explanation.notes)
    pointer = ''
    if notes:
        remarks = 'a remark' if notes == 1 else f'{notes} remarks'
        verb = 'is' if notes == 1 else 'are'
        pointer = (
            f'<p class="note">There {verb} <a href="#notes">{remarks}</a> '
            f'on this comparison.</p>\n'
        )
    return f'<p class="answer">{answer}</p>\n{pointer}'


def counted_verdicts(hypotheses: Sequence[Hypothesis]) -> str:
    """Say how many hypotheses hold."""
    verdicts = [hypothesis.verdict for hypothesis in hypotheses]
    words = {
        HOLDS: ('holds here', 'hold here'),
        FAILS: ('does not', 'do not'),
        OPEN: ('cannot be judged', 'cannot be judged'),
    }
    parts = []
    for verdict, (one, many) in words.items():
        count = verdicts.count(verdict)
        if count:
            parts.append(f'{count} {one if count == 1 else many}')
    if HOLDS not in verdicts and FAILS in verdicts:
        parts[0] += ' hold here'
    return f'Of the {len(verdicts)} hypotheses of the paper, ' + (
        ', '.join(parts) + '.'
    )


def _hypotheses_html(hypotheses: Sequence[Hypothesis]) -> str:
    lines = []
    for hypothesis in hypotheses:
        measured = ''.join(
            f'<div>{c.symbol}: {_shown(c.symbol, c.student)} against '
            f'{_shown(c.symbol, c.baseline)}<small>difference '
            f'{_shown(c.symbol, c.difference.value, "+")}'
            f'{_error(c.symbol, c.difference)}</small></div>'
            for c in hypothesis.comparisons
        )
        lines.append(
            f'<tr><td>{hypothesis.text}</td><td>{measured or "-"}</td>'
            f'<td><b class="verdict">{_SYMBOLS[hypothesis.verdict]} '
            f'{hypothesis.verdict}</b><small>{hypothesis.reason}</small>'
            f'</td></tr>\n'
        )
    return (
        '<h2>The hypotheses of the paper, in this run</h2>\n'
        '<div class="card scroll text"><table>\n<thead><tr>'
        '<th>hypothesis</th><th>student against baseline</th>'
        f'<th>in this run</th></tr></thead>\n<tbody>\n{"".join(lines)}'
        '</tbody></table></div>\n'
        '<p class="note">After ±: the standard error of the difference, '
        'taken image by image. A hypothesis holds where each difference goes '
        f'its way by more than {CLEAR:g} standard errors, on at least '
        f'{FEWEST} images. That is about these images and these trainings '
        'alone: nothing here tells how much another seed changes.</p>\n'
    )


def _error(symbol: str, estimate: Estimate) -> str:
    if not math.isfinite(estimate.error):
        return ''
    return f' ± {_shown(symbol, estimate.error)}'


def _table_html(networks: dict[str, NetworkResult]) -> str:
    lines = []
    for name, network in networks.items():
        figures = known_figures(network)
        accuracy = math.nan if network.accuracy is None else network.accuracy
        cells = [f'{accuracy:.2f} %' if math.isfinite(accuracy) else '-']
        for symbol in _DECIMALS:
            estimate = figures.get(symbol, UNKNOWN)
            cells.append(
                f'{_shown(symbol, estimate.value)}'
                f'<small>{_error(symbol, estimate)}</small>'
            )
        # A teacher is what its file holds, of whatever epoch.
        cells.append(
            '-' if name == 'teacher' else f'epoch {network.epochs[-1]:,}'
        )
        row = ''.join(f'<td class="n">{cell}</td>' for cell in cells)
        lines.append(f'<tr><td><b>{html.escape(name)}</b></td>{row}</tr>\n')
    head = ''.join(
        f'<th class="n">{column}</th>'
        for column in ('top-1', *_DECIMALS, 'read at')
    )
    return (
        '<h2>Knowledge points</h2>\n<div class="card scroll figures">'
        '<table>\n'
        f'<thead><tr><th>network</th>{head}</tr></thead>\n<tbody>\n'
        f'{"".join(lines)}</tbody></table></div>\n'
        '<p class="note">Means over the images at the last checkpoint; '
        f'{D_STD} is a standard deviation over them. After ±: standard '
        f'errors over the images. {D_MEAN}, {D_STD} and {RHO} look at the '
        'whole training, which is not known of a teacher. '
        '<a href="#meaning">What the figures mean</a></p>\n'
    )


def _picture_html(picture: np.ndarray, text: str) -> str:
    data = base64.b64encode(png(picture)).decode()
    return (
        f'<img alt="{html.escape(text)}" src="data:image/png;base64,{data}">'
    )


def _maps_html(explanation: Explanation, examples: int) -> str:
    count = len(explanation.names)
    chosen = np.unique(
        np.linspace(0, count - 1, min(examples, count)).round().astype(int)
    ).tolist()
    if not chosen:
        return ''
    networks = explanation.networks
    limits = entropy_limits([n.entropy[-1, chosen] for n in networks.values()])
    lines = []
    for index in chosen:
        name = explanation.names[index]
        image, mask = explanation.images[index], explanation.masks[index]
        label = explanation.labels[index]
        shown = html.escape(name)
        if label is not None:
            shown += f'<small>class {label}</small>'
        picture = _picture_html(
            foreground_picture(image, mask), f'{name}, foreground outlined'
        )
        cells = [f'<td>{picture}{shown}</td>']
        for network_name, network in networks.items():
            points = network.points
            picture = entropy_picture(
                image,
                mask,
                network.entropy[-1, index],
                points.foreground_points[-1, index],
                points.background_points[-1, index],
                limits,
            )
            inside = int(points.n_fg[-1, index])
            outside = int(points.n_bg[-1, index])
            text = (
                f'Entropy of the {network_name} on {name}: {inside} '
                f'knowledge points on the foreground, {outside} on the '
                f'background'
            )
            cells.append(
                f'<td>{_picture_html(picture, text)}{N_FG} {inside}, '
                f'{N_BG} {outside}'
                + (
                    ''
                    if network.reached[-1, index]
                    else '<small>the target entropy was not reached</small>'
                )
                + '</td>'
            )
        lines.append(f'<tr>{"".join(cells)}</tr>\n')
    heads = ''.join(f'<th>{html.escape(name)}</th>' for name in networks)
    shown = (
        'All images'
        if len(chosen) == count
        else f'{counted_images(len(chosen))} of {count:,}, evenly spread '
        f'over the set and not picked by what they show'
    )
    return (
        '<h2>What the networks use</h2>\n'
        f'<p class="note">{shown}. Each cell of the grid has the colour of '
        'its entropy at the last checkpoint, over the image in grey. All '
        'maps have the same colours. A cell is foreground where its upper '
        'left pixel is.</p>\n<figure>\n<figcaption class="key">'
        f'<span>{_OUTLINE}outline of the foreground</span>'
        f'<span>{_DISC}knowledge point on the foreground</span>'
        f'<span>{_CROSS}knowledge point on the background</span>'
        f'</figcaption>\n{_scale_html(limits)}</figure>\n'
        '<div class="card scroll maps"><table>\n<thead><tr><th>image</th>'
        f'{heads}</tr></thead>\n<tbody>\n{"".join(lines)}</tbody></table>'
        '</div>\n'
    )


def _scale_html(limits: tuple[float, float]) -> str:
    low, high = limits
    *most, last = np.linspace(low, high, 5)
    ticks = ''.join(f'<span>{value:.2f}</span>' for value in most)
    bar = _picture_html(
        colour_bar(),
        f'Colours of the entropies, from {low:.2f} to {high:.2f} nats',
    )
    return (
        f'<div class="scale">{bar}<div class="ends">{ticks}'
        f'<span>{last:.2f} nats</span></div>'
        '<div class="ends"><span>low: the network uses this</span>'
        '<span>high: ignored</span></div></div>\n'
    )


def _curves_html(networks: dict[str, NetworkResult]) -> str:
    shown = {name: networks.get(name) for name in _CURVES}
    if not any(shown.values()):
        return ''
    teacher = networks.get('teacher')
    keys = [
        key_html(place, name)
        for place, (name, network) in enumerate(shown.items())
        if network is not None
    ]
    if teacher is not None:
        keys.append(key_html(None, 'teacher'))
    figures = []
    for caption, label, field in (
        (f'{N_FG}, points on the foreground', 'N_fg', 'mean_n_fg'),
        (f'{N_BG}, points on the background', 'N_bg', 'mean_n_bg'),
        (f'{LAMBDA}, share on the foreground', 'lambda', 'mean_lambda'),
    ):
        series = [
            ((), ())
            if network is None
            else (network.epochs, getattr(network.points, field).tolist())
            for network in shown.values()
        ]
        reference = None
        if teacher is not None:
            reference = getattr(teacher.points, field)[-1].item()
            reference = reference if math.isfinite(reference) else None
        figures.append((caption, label, series, reference))
    if any(n is not None and n.distances for n in shown.values()):
        series = [
            ((), ())
            if network is None or not network.distances
            else (network.epochs, network.distances)
            for network in shown.values()
        ]
        figures.append(
            ('Distance of the weights', 'weight distance', series, None)
        )
    drawn = ''.join(
        f'<figure><figcaption>{caption}</figcaption>'
        + svg(
            line_figure(series, 'epoch', reference, size=(4.6, 2.3)),
            f'{label} over the epochs',
        )
        + '</figure>\n'
        for caption, label, series, reference in figures
    )
    return (
        '<h2>Over the training</h2>\n<p class="note key">'
        f'{"".join(keys)}</p>\n<div class="curves">\n{drawn}</div>\n'
        '<p class="note">Means over the images at each checkpoint. The '
        'distance is how far the weights have gone by then, in units of the '
        'norm of the weights at the start.</p>\n'
    )


def _meaning_html(explanation: Explanation) -> str:
    protocol = explanation.protocol
    b = protocol.get('b')
    below = 'b' if b is None else f'{b:g} nats (b)'
    reference = _REFERENCES.get(
        protocol.get('reference'), 'the reference of the protocol'
    )
    rows = (
        (
            'entropy',
            'How much noise a cell of the image takes before the features of '
            'the layer move, in nats',
            'the network ignores the cell',
            'the network uses the cell',
        ),
        (
            N_FG,
            'Points on the foreground, mean over images',
            'it reads more of the object',
            'it reads less of it',
        ),
        (
            N_BG,
            'Points on the background, mean over images',
            'it reads more of the surroundings',
            'it reads less of them',
        ),
        (
            LAMBDA,
            f'{N_FG} / ({N_FG} + {N_BG}) of each image, 0 for one without '
            f'a point, mean over images',
            'more of what it reads is the object',
            'more of what it reads is something else',
        ),
        (
            D_MEAN,
            'How far the weights have gone when an image has most points on '
            'its foreground, mean over images',
            'it learns later',
            'it learns earlier',
        ),
        (
            D_STD,
            'The standard deviation of that distance over images',
            'it learns the images one after another',
            'it learns them at the same time',
        ),
        (
            RHO,
            'Of the points on the foreground at any checkpoint, the share '
            'that is there at the last one; 0 for an image without any; mean '
            'over images',
            'fewer detours',
            'more was learned and given up again',
        ),
    )
    lines = ''.join(
        f'<tr><td><b>{name}</b></td><td>{what}</td><td>{higher}</td>'
        f'<td>{lower}</td></tr>\n'
        for name, what, higher, lower in rows
    )
    lam = (
        ' The constant <code>lam</code>, the weight of the entropy, '
        f'is another number than the share {LAMBDA} above.'
        if 'lam' in protocol.get('constants', {})
        else ''
    )
    sentences = (
        f'<b>A knowledge point</b> is a cell whose entropy is more than '
        f'{below} below {reference}: the network uses it clearly more than '
        f'that.',
        '<b>What is measured</b> is how strongly the features react to small '
        'changes of the pixels. The entropy of a cell falls as its Jacobian '
        'energy rises, the squared derivative of the features with respect '
        'to its pixels; a point is a cell with much of it.',
        '<b>Compare only within this page.</b> Counts depend on the layer, '
        'the grid, the target entropy, b, the reference, the method and all '
        'else in the protocol below. Counts of two protocols, layers or '
        f'image sets cannot be compared.{lam}',
        '<b>Every network is read at the same mean entropy</b> where the '
        'target was reached, so a network that uses the whole image evenly '
        'has few points: what counts is how unevenly it reads.',
        '<b>What this page cannot say:</b> whether a network is right, what '
        'it recognises in a cell, whether the object is what it should look '
        'at, or what would happen in another training. A network can be '
        f'accurate with a low {LAMBDA}, and have many points and be wrong.',
        f'{D_MEAN} and {D_STD} see only the checkpoints: an image is '
        'learned at one of them. An image that never has a point counts as '
        'learned at the first.',
    )
    items = ''.join(f'<li>{sentence}</li>\n' for sentence in sentences)
    return (
        '<h2 id="meaning">What the figures mean</h2>\n'
        '<div class="card scroll text"><table>\n<thead><tr><th>figure</th>'
        '<th>what it is</th><th>higher</th><th>lower</th></tr></thead>\n'
        f'<tbody>\n{lines}</tbody></table></div>\n'
        f'<ul class="plain">\n{items}</ul>\n'
    )


def _plain(value) -> str:
    """Write a plain value of the protocol."""
    if value is None:
        return 'not given'
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:g}'
    if isinstance(value, dict):
        return ', '.join(f'{k}: {_plain(v)}' for k, v in value.items()) or '-'
    if isinstance(value, (list, tuple)):
        return ', '.join(map(_plain, value)) or '-'
    return str(value)


def _rows(rows: Iterable[Sequence[str]]) -> str:
    return ''.join(
        '<tr>' + ''.join(f'<td>{cell}</td>' for cell in row) + '</tr>\n'
        for row in rows
    )


def _protocol_html(explanation: Explanation) -> str:
    protocol = _rows(
        (f'<code>{html.escape(str(key))}</code>', html.escape(_plain(value)))
        for key, value in explanation.protocol.items()
    )
    protocol += _rows(
        (html.escape(name), html.escape(_basis(network)))
        for name, network in explanation.networks.items()
    )
    notes = ''.join(
        f'<li>{html.escape(note)}</li>\n' for note in explanation.notes
    )
    return (
        '<h2>Protocol</h2>\n<div class="card scroll text"><table>\n'
        f'<thead><tr><th>name</th><th>value</th></tr></thead>\n<tbody>\n'
        f'{protocol}</tbody></table></div>\n'
        '<h2>What was left out, and what is odd</h2>\n'
        + _dropped_html(explanation)
        + _flags_html(explanation.networks)
        + f'<ul class="plain">\n<li>{_filter_text(explanation)}</li>\n</ul>\n'
        + '<h3 id="notes">Remarks</h3>\n'
        + (
            f'<ul class="plain">\n{notes}</ul>\n'
            if notes
            else '<p class="note">None.</p>\n'
        )
    )


def _basis(network: NetworkResult) -> str:
    """Tell what the figures of a network are from."""
    parts = []
    count = len(network.checkpoints)
    if count:
        more = '' if count == 1 else f' and {count - 1} before it'
        parts.append(f'{network.checkpoints[-1]}{more}')
    if network.feature_length is not None:
        parts.append(f'a feature of {network.feature_length:,} numbers')
    if network.probes is not None:
        exact = network.probes == network.feature_length
        parts.append(
            'all directions, which is exact'
            if exact
            else f'{network.probes} directions'
        )
    if network.granularity is not None:
        tensors = len(network.parameters)
        parts.append(
            f'weight distance from {network.granularity} to '
            f'{network.granularity}, over {tensors} parameter'
            + ('' if tensors == 1 else 's')
        )
    return '; '.join(parts) or '-'


def _dropped_html(explanation: Explanation) -> str:
    counted = counted_images(len(explanation.names))
    looked_at = f'{counted_images(explanation.num_images)} looked at'
    parts = [f'<p>{looked_at}, {counted} counted.</p>\n']
    for reason, names in explanation.dropped.items():
        if names:
            parts.append(
                f'<details class="card"><summary>{len(names):,} left out: '
                f'{html.escape(reason)}</summary><p class="names">'
                f'{html.escape(", ".join(names))}</p></details>\n'
            )
    return ''.join(parts)


def _flags_html(networks: dict[str, NetworkResult]) -> str:
    lines = []
    for name, network in networks.items():
        missed = (~network.reached).sum(1)
        without = (
            '-'
            if network.stability is None
            else f'{int(network.stability.without_points.sum()):,}'
        )
        cells = (
            f'{len(network.epochs):,}',
            f'{int(missed[-1]):,}',
            f'{int(missed.max()):,}',
            f'{max(network.without_energy, default=0):,}',
            without,
        )
        row = ''.join(f'<td class="n">{cell}</td>' for cell in cells)
        lines.append(f'<tr><td><b>{html.escape(name)}</b></td>{row}</tr>\n')
    return (
        '<h3>Images with a flag</h3>\n<div class="card scroll"><table>\n'
        '<thead><tr><th>network</th><th class="n">checkpoints</th>'
        '<th class="n">target not reached, last</th>'
        '<th class="n">target not reached, most</th>'
        '<th class="n">no energy, most</th>'
        '<th class="n">never a point</th></tr></thead>\n<tbody>\n'
        f'{"".join(lines)}</tbody></table></div>\n'
        '<p class="note">Numbers of images; “most” is that of the worst '
        'checkpoint. Where the entropy did not reach its target, an image is '
        'counted at another mean entropy than the rest. “No energy”: the '
        'layer did not react to the image at all, of all images looked at. '
        '“Never a point”: on the foreground, at any checkpoint.</p>\n'
    )


def _filter_text(explanation: Explanation) -> str:
    found = explanation.released_filter
    applied = found['applied']
    text = (
        'The sample filter of the released code '
        f'<b>{"is" if applied else "is not"} applied</b>. It keeps images '
        'whose background has at least the mean entropy of their foreground '
        f'at every checkpoint from epoch {found["from_epoch"]} on, at most '
        f'{found["limit"]}, and so prefers images that fit the hypotheses.'
    )
    if found['passed'] is None:
        return text + ' No checkpoint is late enough to tell which pass.'
    passed = ', '.join(
        f'{html.escape(name)} {count:,}'
        for name, count in found['passed'].items()
    )
    verb = 'pass' if applied else 'would pass'
    text += f' Images that {verb}: {passed}.'
    verb = 'are' if applied else 'would be'
    return f'{text} Kept {verb} {found["kept"]:,}.'

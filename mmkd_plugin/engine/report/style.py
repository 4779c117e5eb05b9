"""The colours of the figures, and the style sheet of the page."""

# The colours of Okabe and Ito, which stay apart in colour-blind eyes.
BLUE, ORANGE, GREEN = '#0072b2', '#d55e00', '#009e73'
SERIES = (BLUE, ORANGE, GREEN, '#cc79a7', '#e69f00', '#56b4e9')
DASHES = ('-', (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
# Colours of a figure that is put into a page, where a style sheet that knows
# light from dark takes their place.
INK, FAINT = '#1a1a1b', '#c8c8c9'
CSS_COLOURS = {
    INK: 'currentColor',
    FAINT: 'var(--line)',
    **{colour: f'var(--s{i})' for i, colour in enumerate(SERIES)},
}

STYLE = """
:root {
  color-scheme: light dark;
  --bg: #f6f6f4; --card: #ffffff; --ink: #1c1d20; --soft: #5d6168;
  --line: #dcdcd8; --s0: #0072b2; --s1: #d55e00; --s2: #00875f;
  --s3: #b4588f; --s4: #b97e00; --s5: #3c93c9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #141518; --card: #1d1f23; --ink: #e7e7e4; --soft: #a0a4ab;
    --line: #3a3d43; --s0: #58b0ec; --s1: #ff8b3d; --s2: #35c79b;
    --s3: #e59cc6; --s4: #f0b93a; --s5: #9ad2f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Ubuntu,
    "Noto Sans", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 44px 0 14px; }
h3 { font-size: 1rem; margin: 24px 0 10px; }
.lead, figcaption, .note { color: var(--soft); }
.lead { margin: 0 0 28px; }
.note { font-size: .875rem; max-width: 46em; margin: 6px 0 14px; }
code { font: .9em ui-monospace, Menlo, Consolas, monospace; }
.card, figure {
  background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 16px;
}
figure { margin: 0; min-width: 0; }
figcaption { font-size: .875rem; margin-bottom: 8px;
  overflow-wrap: anywhere; }
.grid { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); }
.stats { display: grid; gap: 14px; margin-bottom: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 180px), 1fr)); }
.stats b { display: block; font-size: 1.9rem; line-height: 1.2;
  font-variant-numeric: tabular-nums; }
.stats span { color: var(--soft); font-size: .875rem; }
.scroll { overflow-x: auto; padding: 4px 16px; }
table { border-collapse: collapse; width: 100%;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-size: .8125rem; font-weight: 600;
  color: var(--soft); }
th, td { padding: 9px 18px 9px 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
tr:last-child td { border-bottom: 0; }
td.n, th.n { text-align: right; white-space: nowrap;
  padding-right: 28px; }
td small { color: var(--soft); }
td:nth-child(2) { white-space: nowrap; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: currentColor; }
.confusion { margin: 0 auto; font-size: 12px; }
.confusion .axis { font-size: 13px; font-weight: 600; }
.right { fill: var(--s0); } .wrong { fill: var(--s1); }
.frame { stroke: var(--line); }
figure + figure { margin-top: 14px; }
.grid figure { margin: 0; }
.wide { overflow-x: auto; }
.wide svg { min-width: 600px; }
.ends { display: flex; justify-content: space-between; gap: 12px; }
.paper { background: #fff; }
.paper figcaption { color: #5d6168; }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; }
.key svg { display: inline-block; width: 26px; height: 8px;
  margin-right: 6px; vertical-align: middle; }
details { margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; padding: 6px 0; }
pre { overflow-x: auto; font: .8125rem/1.5 ui-monospace, Menlo, Consolas,
  monospace; margin: 8px 0 0; }
"""

"""The heat map as an accessible HTML table: a number in every cell, one hue, light or dark."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from collections.abc import Sequence
from html import escape

import numpy as np

from apps.heatmap.heatmap import HeatMap, short_names
from apps.heatmap.narrow import fits_in_lines, layout_class, layout_rules
from apps.heatmap.picture import encode_image
from finetune.figures.canvas import (
    BLUES,
    FAINT,
    INK,
    MUTED,
    PAPER,
    VERMILION,
    count_text,
    readable_ink,
    shade,
    shorten,
)
from finetune.figures.heat_map import cell_text
from finetune.images.preprocess import resize

NAME_LIMIT, COLUMN_LIMIT = 44, 60  # characters of an image's and of a class's name
ONE_LINE = 24  # characters of a turned class name from which on a tooltip shows it as well
UPRIGHT, FEW = 6, 4  # names up to so long are not turned; of so few columns they may be twice as long
WIDE = 10  # columns of a model from which on its name stands at their left, where it is in sight
DENSE = 16  # columns of all models together from which on cells shrink
THUMBNAIL = 96  # px; shown at half of that, so that it stays sharp on a phone
JOINERS = "\u200c\u200d"  # letters of Persian, Hindi and emoji depend on them
LEVELS = 40  # steps of the scale beside zero
NIGHT = ("#17222e", "#17395a", "#1a5a94", "#2f83c9", "#74b6ea", "#b7dcf7", "#e3f2fd")
NIGHT_INK, NIGHT_PAPER, NIGHT_MUTED, NIGHT_TRUTH = "#e8eef4", "#0e141b", "#9fb0c0", "#ff8a3d"
NIGHT_LINE = "#2b3742"


def to_html(found: HeatMap) -> str:
    """Return the heat map as an HTML fragment with its own style, every rule of which names `crl-heat`.

    It is dark inside an element of class "dark". File, class and model names are escaped, and cannot turn the
    text around them.
    """
    return f"<style>{STYLE}{_layouts(found)}</style>\n{_region(found)}"


def to_html_page(found: HeatMap, title: str) -> str:
    """Return the heat map as a page of its own: no script, no reference to anything outside the page.

    It is light or dark as the reader's system is. Its content security policy allows its own style and the
    thumbnails inside it, nothing else.
    """
    style = STYLE + _layouts(found) + PAGE_STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
    policy += "form-action 'none'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_text(title)}</title>
<style>{style}</style>
</head>
<body class="crl-heat-page">
<main>
<h1>{_name(title)}</h1>
{_region(found)}
</main>
</body>
</html>
"""


def _region(found: HeatMap) -> str:
    rows = "\n".join(_row(found, row) for row in range(len(found.rows)))
    kinds = f"crl-heat {layout_class(found)}{' d' * _is_dense(found)}"
    return f"""<div class="{kinds}" role="region" aria-label="Softmax heat map" tabindex="0">
<table>
<caption>{_caption(found)}</caption>
<thead>
{_head(found)}
</thead>
<tbody>
{rows}
</tbody>
</table>
</div>"""


def _caption(found: HeatMap) -> str:
    size = f"{count_text(len(found.rows), 'image')}, {count_text(len(found.tables), 'model')}"
    swatches = "".join(f'<i class="h{level}"></i>' for level in range(0, LEVELS + 1, 4))
    legend = f'<span class="s">0&nbsp;<span class="w" aria-hidden="true">{swatches}</span>&nbsp;1</span>'
    if found.targets is not None:
        legend += '<span class="s"><i class="t" aria-hidden="true"></i> outlined: true class</span>'
    legend += '<span><b>bold</b>: predicted class</span><span class="s">0: below 0.005</span>'
    if found.hidden:
        legend += f'<span class="s">other: the sum of the {found.hidden} classes without a column</span>'
    words = f"<strong>Softmax probabilities</strong> {size}<div>{legend}</div>"
    return f'<div class="c"><div>{words}</div></div>'


def _is_dense(found: HeatMap) -> bool:
    return len(found.column_names) * len(found.tables) > DENSE


def _are_turned(names: Sequence[str]) -> bool:
    """Return whether the columns' names run upwards: where one of them is long."""
    return max(map(len, names)) > (UPRIGHT * 2 if len(names) <= FEW else UPRIGHT)


def _layouts(found: HeatMap) -> str:
    names = short_names(found.column_names, COLUMN_LIMIT)
    turned = _are_turned(found.column_names)
    return layout_rules(found, names, turned=turned, dense=_is_dense(found))


def _head(found: HeatMap) -> str:
    width = len(found.column_names)
    side = "g l" if width > WIDE else "g"
    models = "".join(
        f'<th scope="colgroup" colspan="{width}" class="{side}"><span class="m">{_name(title)}</span></th>'
        for title in found.tables
    )
    names = "".join(_columns(found, again=position > 0) for position in range(len(found.tables)))
    first = '<th scope="col" rowspan="2" class="n"><div>Image</div></th>'
    return f"<tr>{first}{models}</tr>\n<tr>{names}</tr>"


def _columns(found: HeatMap, *, again: bool) -> str:
    """Return a model's column names; those of further models go where one row of them serves all."""
    kind = "v" if _are_turned(found.column_names) else "u"
    columns, short = [], short_names(found.column_names, COLUMN_LIMIT)
    for column, name in enumerate(found.column_names):
        rest = found.hidden > 0 and column == len(short) - 1
        marks = (("g", column == 0), ("o", rest), ("r", again))
        classes = " ".join(mark for mark, wanted in marks if wanted)
        columns.append(
            f'<th scope="col"{_class(classes)}{_tooltip(name, ONE_LINE)}>'
            f'<span class="{kind}">{_name(short[column])}</span></th>'
        )
    return "".join(columns)


def _row(found: HeatMap, row: int) -> str:
    name, target = found.rows[row], found.truth(row)
    truth = "" if target is None else f"<small>true: {_name(found.names[target])}</small>"
    label = f"<span>{_name(shorten(name, NAME_LIMIT)).replace('_', '_<wbr>')}{truth}</span>"
    picture = _thumbnail(found.thumbnail(row))
    cells = [f'<th scope="row" class="n"{_tooltip(name, NAME_LIMIT)}><div>{picture}{label}</div></th>']
    cells += _names_below(found)
    for title in found.tables:
        cells.append(f'<th class="k">{_name(title)}</th>')
        values, best, true = found.shown(title)[row], found.predicted(title)[row], found.truths[row]
        for column, value in enumerate(values):
            rest = found.hidden > 0 and column == len(values) - 1
            cells.append(
                _cell(float(value), best=column == best, true=column == true, first=column == 0, rest=rest)
            )
    return f"<tr>{''.join(cells)}</tr>"


def _names_below(found: HeatMap) -> list[str]:
    """Return the classes' names for where they stand below each other; shown in that layout alone."""
    if fits_in_lines(found):
        return []
    names = short_names(found.column_names, COLUMN_LIMIT)
    return ['<th class="y"></th>', *(f'<th class="y">{_name(name)}</th>' for name in names)]


def _cell(value: float, *, best: bool, true: bool, first: bool, rest: bool) -> str:
    """Return one cell; what bold type and outline say is also there in words for a screen reader."""
    text = cell_text(value)
    classes = [f"h{level_of(value)}", *("z",) * (text == "0")]
    classes += [name for name, wanted in (("t", true), ("g", first), ("o", rest)) if wanted]
    words = ", ".join(["predicted"] * best + ["✓ true class"] * true)
    text = f"<b>{text}</b>" if best else text
    spoken = f'<span class="x"> {words}</span>' if words else ""
    return f'<td class="{" ".join(classes)}">{text}{spoken}</td>'


def level_of(value: float) -> int:
    """Return the step of the colour scale, 0 to `LEVELS`, for a probability.

    >>> level_of(0.0), level_of(0.5), level_of(1.0)
    (0, 20, 40)
    """
    return round(min(max(value, 0.0), 1.0) * LEVELS)


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def _tooltip(name: str, limit: int) -> str:
    return f' title="{_text(name)}"' if len(name) > limit else ""


def _text(name: str) -> str:
    """Return a name escaped for text and attributes, without signs that steer lines or direction."""
    return escape("".join(sign if _harmless(sign) else "\ufffd" for sign in name))


def _harmless(sign: str) -> bool:
    return sign in JOINERS or unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _name(name: str) -> str:
    return f"<bdi>{_text(name)}</bdi>"


def _thumbnail(crop: np.ndarray | None) -> str:
    if crop is None:
        return ""
    side = min(THUMBNAIL, max(crop.shape[:2]))
    small = crop if max(crop.shape[:2]) <= THUMBNAIL else resize(crop, side, side)
    data = base64.b64encode(encode_image(small, ".jpg", quality=86)).decode()
    return f'<img src="data:image/jpeg;base64,{data}" width="48" height="48" alt="">'


def steps(scale: Sequence[str], inks: Sequence[str]) -> list[tuple[str, str]]:
    """Return (background, ink) for every step of a scale, from 0 to `LEVELS`."""
    papers = [shade(scale, level / LEVELS) for level in range(LEVELS + 1)]
    return [(paper, readable_ink(paper, inks)) for paper in papers]


DAY_STEPS = steps(BLUES, (INK, PAPER))
NIGHT_STEPS = steps(NIGHT, (NIGHT_INK, NIGHT_PAPER))


def _variables(colours: Sequence[tuple[str, str]], **named: str) -> str:
    cells = [f"--h{level}:{paper};--i{level}:{ink}" for level, (paper, ink) in enumerate(colours)]
    return ";".join([*(f"--{name}:{colour}" for name, colour in named.items()), *cells])


_DAY = _variables(DAY_STEPS, ink=INK, paper=PAPER, muted=MUTED, truth=VERMILION, line=FAINT)
_NIGHT = _variables(
    NIGHT_STEPS, ink=NIGHT_INK, paper=NIGHT_PAPER, muted=NIGHT_MUTED, truth=NIGHT_TRUTH, line=NIGHT_LINE
)
_CELLS = "".join(
    f".crl-heat .h{level}{{background:var(--h{level});color:var(--i{level})}}" for level in range(LEVELS + 1)
)

# The caption adds nothing to the table's width: it would draw the cells apart.
# --side is the width of the first column, which stays in sight while the rest scrolls past under it.
_RULES = """
.crl-heat *{color:inherit;font-family:inherit}
.crl-heat{--side:12.5rem;--cell:3rem;--pad:.15rem;--number:.875rem;--best:.9375rem;container-type:inline-size;overflow-x:auto;max-width:100%;background:var(--paper);
color:var(--ink);font-size:.875rem;line-height:1.3;border-radius:.5rem}
.crl-heat:focus-visible{outline:3px solid var(--truth);outline-offset:2px}
.crl-heat table{border-collapse:separate;border-spacing:0;margin:0;width:auto;min-width:0;border:0;
background:none;color:inherit;font-size:inherit;font-variant-numeric:tabular-nums;table-layout:auto}
.crl-heat caption{caption-side:top;text-align:left;padding:0;margin:0;color:inherit}
.crl-heat .c{position:sticky;left:0;width:0}
.crl-heat .c>div{box-sizing:border-box;width:100cqi;padding:.5rem}
.crl-heat .c strong{font-size:1rem;margin-inline-end:.5rem;color:inherit}
.crl-heat .c>div>div{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;margin-top:.3rem;color:var(--muted)}
.crl-heat .c b{color:var(--ink)}
.crl-heat .s{display:inline-flex;align-items:center;gap:.3rem}
.crl-heat .w{display:inline-flex;border:1px solid var(--muted)}
.crl-heat .w i{width:.6rem;height:.8rem}
.crl-heat i.t{width:1rem;height:1rem;border:3px solid var(--truth);box-sizing:border-box}
.crl-heat tr{background:none;border:0}
.crl-heat th,.crl-heat td{border:0 solid var(--paper);text-align:center;vertical-align:middle;padding:0;
font-weight:400;color:inherit;line-height:1.25}
.crl-heat td{position:relative;box-sizing:content-box;
min-width:var(--cell);height:3.25rem;padding:0 var(--pad);
font-size:var(--number);border-width:0 1px 1px 0;
print-color-adjust:exact;-webkit-print-color-adjust:exact;forced-color-adjust:none}
.crl-heat .g{border-left-width:.75rem}
.crl-heat td b{font-weight:800;font-size:var(--best);color:inherit}
.crl-heat td.t::after{content:"";position:absolute;inset:0;border:3px solid var(--truth);
box-shadow:inset 0 0 0 1px var(--paper);pointer-events:none}
.crl-heat td.o{border-left:2px dashed var(--muted)}
.crl-heat thead th{padding:.25rem .15rem;vertical-align:bottom;background:var(--paper)}
.crl-heat thead .m{position:sticky;left:calc(var(--side) + .75rem);display:inline-block;font-weight:700;
font-size:1rem;max-width:calc(100cqi - var(--side) - 1.5rem);overflow-wrap:anywhere}
.crl-heat thead .l{text-align:left}
.crl-heat thead .o{font-style:italic;color:var(--muted)}
.crl-heat .u{white-space:nowrap;font-size:var(--number)}
.crl-heat .v{font-size:var(--number);display:inline-block;max-height:12rem;line-height:1.1;
writing-mode:vertical-rl;transform:rotate(180deg);overflow-wrap:anywhere;text-wrap:balance;text-align:start}
.crl-heat .n,.crl-heat thead .n{position:sticky;left:0;z-index:2;background:var(--paper);padding:0;
text-align:left}
.crl-heat thead .n{padding-bottom:.25rem}
.crl-heat .n>div{display:flex;align-items:center;gap:.5rem;box-sizing:border-box;width:var(--side);
padding:.15rem .25rem .15rem .5rem;overflow-wrap:anywhere;font-size:.8125rem}
.crl-heat .n img{width:48px;height:48px;flex:none;margin:0;border-radius:.25rem;object-fit:cover}
.crl-heat thead .n{color:var(--muted)}
.crl-heat small{display:block;color:var(--muted);font-size:inherit}
.crl-heat .x{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);
white-space:nowrap;user-select:none}
.crl-heat.d{--side:11rem;--cell:2.55rem;--pad:0;--number:.8125rem;--best:.8125rem}
.crl-heat .k,.crl-heat .y{display:none}
"""
_LAST = ".crl-heat td.z{color:var(--muted)}"  # a zero's grey goes before the ink of its step

# Said three times, the class outweighs what a page that the table is put into says of every table.
_INSIDE = (_RULES + _CELLS + _LAST).replace("\n", "").replace(".crl-heat ", ".crl-heat.crl-heat.crl-heat ")
STYLE = f".crl-heat{{{_DAY}}}.dark .crl-heat{{{_NIGHT}}}{_INSIDE}"
PAGE_STYLE = (
    f"body.crl-heat-page{{margin:0;background:{PAPER};color:{INK};font-family:system-ui,sans-serif}}"
    ".crl-heat-page main{max-width:110rem;margin:0 auto;padding:1rem}"
    ".crl-heat-page h1{font-size:1.25rem;margin:0 .5rem .5rem;overflow-wrap:anywhere}"
    "@media (prefers-color-scheme:dark){"
    f"body.crl-heat-page{{background:{NIGHT_PAPER};color:{NIGHT_INK}}}.crl-heat-page .crl-heat{{{_NIGHT}}}}}"
    ""
    "@media (max-width:34rem){.crl-heat-page main{padding:.5rem}}"
    "@media print{.crl-heat{overflow:visible}.crl-heat .n,.crl-heat .c,.crl-heat thead .m{position:static}}"
)

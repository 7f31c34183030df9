"""The heat map as an accessible HTML table: a number in every cell, one hue, light or dark."""

from __future__ import annotations

import base64
import hashlib
import unicodedata
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from apps.heatmap.encoding import encode_image
from apps.heatmap.names import short_names
from apps.heatmap.style import LEVELS, PAGE_STYLE, STYLE
from finetune.figures.canvas import count_text, shorten
from finetune.figures.heat_map import cell_text
from finetune.images.preprocess import resize

if TYPE_CHECKING:
    from apps.heatmap.heatmap import HeatMap

NAME_LIMIT, COLUMN_LIMIT = 44, 60  # characters of a picture's and of a class's name
ONE_LINE = 24  # characters of a turned class name from which on it is told where the pointer rests as well
UPRIGHT, FEW = 6, 4  # names up to so long are not turned; of so few columns they may be twice as long
WIDE = 10  # columns of a model from which on its name stands at their left, where it is in sight
DENSE = 16  # columns of all models together from which on cells shrink
THUMBNAIL = 96  # px; shown at half of that, so that it stays sharp on a phone
JOINERS = "\u200c\u200d"  # letters of Persian, Hindi and emoji depend on them


def to_html(found: HeatMap) -> str:
    """Return the heat map as an HTML fragment with its own style, every rule of which names `crl-heat`.

    It is dark inside an element of class "dark". File, class and model names are escaped, and cannot turn the
    text around them.
    """
    return f"<style>{STYLE}</style>\n{_region(found)}"


def to_html_page(found: HeatMap, title: str) -> str:
    """Return the heat map as a page of its own: no script, no reference to anything outside the page.

    It is light or dark as the reader's system is. Its content security policy allows its own style and the
    thumbnails inside it, nothing else.
    """
    style = STYLE + PAGE_STYLE
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
    dense = " d" if len(found.column_names) * len(found.tables) > DENSE else ""
    return f"""<div class="crl-heat{dense}" role="region" aria-label="Softmax heat map" tabindex="0">
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
    size = f"{count_text(len(found.rows), 'picture')}, {count_text(len(found.tables), 'model')}"
    swatches = "".join(f'<i class="h{level}"></i>' for level in range(0, LEVELS + 1, 4))
    legend = f'<span class="s">0&nbsp;<span class="w" aria-hidden="true">{swatches}</span>&nbsp;1</span>'
    if found.targets is not None:
        legend += '<span class="s"><i class="t" aria-hidden="true"></i> outlined: true class</span>'
    legend += '<span><b>bold</b>: predicted class</span><span class="s">0: below 0.005</span>'
    if found.hidden:
        legend += f'<span class="s">other: the sum of the {found.hidden} classes without a column</span>'
    words = f"<strong>Softmax probabilities</strong> {size}<div>{legend}</div>"
    return f'<div class="c"><div>{words}</div></div>'


def _head(found: HeatMap) -> str:
    width = len(found.column_names)
    side = "g l" if width > WIDE else "g"
    models = "".join(
        f'<th scope="colgroup" colspan="{width}" class="{side}"><span class="m">{_name(title)}</span></th>'
        for title in found.tables
    )
    upright = UPRIGHT * 2 if width <= FEW else UPRIGHT
    turned = max(len(name) for name in found.column_names) > upright
    columns, short = [], short_names(found.column_names, COLUMN_LIMIT)
    for column, name in enumerate(found.column_names):
        rest = found.hidden > 0 and column == width - 1
        classes = " ".join(filter(None, ("g" if column == 0 else "", "o" if rest else "")))
        kind = "v" if turned else "u"
        columns.append(
            f'<th scope="col"{_class(classes)}{_tooltip(name, ONE_LINE)}>'
            f'<span class="{kind}">{_name(short[column])}</span></th>'
        )
    first = '<th scope="col" rowspan="2" class="n"><div>Picture</div></th>'
    return f"<tr>{first}{models}</tr>\n<tr>{''.join(columns) * len(found.tables)}</tr>"


def _row(found: HeatMap, row: int) -> str:
    name, target = found.rows[row], found.truth(row)
    truth = "" if target is None else f"<small>true: {_name(found.names[target])}</small>"
    label = f"<span>{_name(shorten(name, NAME_LIMIT)).replace('_', '_<wbr>')}{truth}</span>"
    picture = _thumbnail(found.thumbnail(row))
    cells = [f'<th scope="row" class="n"{_tooltip(name, NAME_LIMIT)}><div>{picture}{label}</div></th>']
    for title in found.tables:
        values, best, true = found.shown(title)[row], found.predicted(title)[row], found.truths[row]
        for column, value in enumerate(values):
            rest = found.hidden > 0 and column == len(values) - 1
            cells.append(
                _cell(float(value), best=column == best, true=column == true, first=column == 0, rest=rest)
            )
    return f"<tr>{''.join(cells)}</tr>"


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

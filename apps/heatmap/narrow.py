"""The layouts of the HTML heat map by the width that it has: side by side, or folded for narrower pages.

Where the models do not fit side by side, even tightly, each image has a line per model under one row of class
names. Where the classes do not fit into a line, they stand below each other and the models beside each other.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from apps.heatmap.heatmap import HeatMap

# All in rem. A column is as wide as its numbers or its name; these are the least widths of the numbers.
ROOMY, DENSE_CELL, TIGHT_CELL, LINE_CELL = 3.3, 2.55, 2.1, 1.95
ROOMY_SIDE, DENSE_SIDE, TIGHT_SIDE = 12.5, 11.0, 9.8  # the images' names, left of the first model
MODEL, NARROW_MODEL = 8.0, 4.75  # a model's name, left of its line
GAP, RULE = 0.75, 0.0625  # left of each model; right of each cell
SPARE = 0.2  # for what browsers round up
LETTER, WIDE_LETTER = 0.56, 1.05  # em
NARROWEST = 16.0  # a small phone
TURNED = 12.0  # what a name that is turned may be tall


def layout_class(found: HeatMap) -> str:
    """Return the class of the element that the rules of `layout_rules` are for."""
    return f"k{len(found.column_names)}m{len(found.tables)}"


def fits_in_lines(found: HeatMap) -> bool:
    """Return whether the classes fit into a line of the narrowest page."""
    return NARROW_MODEL + len(found.column_names) * (LINE_CELL + RULE) <= NARROWEST


def layout_rules(found: HeatMap, names: Sequence[str], *, turned: bool, dense: bool) -> str:
    """Return the style rules that fold a heat map, each layout inside a container query.

    Args:
        found: the heat map.
        names: the columns' names as they are drawn.
        turned: whether the names are turned to run upwards.
        dense: whether cells start out narrower (`html.DENSE`).
    """
    heat = f".crl-heat.crl-heat.crl-heat.{layout_class(found)}"
    columns, models = len(found.column_names), len(found.tables)

    def across(side: float, cell: float, letters: float) -> float:
        widths = [max(cell, _name_width(name, letters, turned=turned)) + RULE for name in names]
        return side + models * (sum(widths) + GAP) + SPARE

    first = (DENSE_SIDE, DENSE_CELL, 0.8125) if dense else (ROOMY_SIDE, ROOMY, 0.875)
    lines = columns * (LINE_CELL + RULE)
    steps = (
        (across(*first), _TIGHT),
        (across(TIGHT_SIDE, TIGHT_CELL, 0.7), _LINES),
        (TIGHT_SIDE + MODEL + lines, _NARROW_LINES),
        (NARROW_MODEL + lines, _TURNED),
    )
    widest = math.inf
    parts = []
    for needed, rules in steps:  # what a narrower layout may have, a wider one has as well
        widest = min(widest, needed)
        told = rules.replace("HEAT", heat).replace("MODELS", str(models)).replace("COLUMNS", str(columns))
        parts.append(f"@container (max-width:{widest - 0.01:.2f}rem){{{told.replace(chr(10), '')}}}")
    return "".join(parts)


def _name_width(name: str, size: float, *, turned: bool) -> float:
    letters = sum(WIDE_LETTER if unicodedata.east_asian_width(sign) in "WF" else LETTER for sign in name)
    if turned:
        return 1.1 * size * math.ceil(letters * size / TURNED) + 0.3
    return letters * size + 0.1


_TIGHT = """
HEAT table{--side:9.8rem;--cell:2.1rem;--pad:0;--number:.75rem;--best:.78rem}
HEAT .u{font-size:.7rem;letter-spacing:-.01em}
HEAT thead th{padding-inline:1px}
HEAT .n>div{font-size:.72rem}
HEAT .n img{width:40px;height:40px}
"""
# A row is a grid: the image's name beside its lines, and of every line the model's name, then its cells.
_LINES = """
HEAT table,HEAT thead,HEAT tbody,HEAT caption{display:block}
HEAT thead tr:first-child,HEAT thead .r{display:none}
HEAT .k{display:block}
HEAT tr{display:grid;grid-template-columns:9.8rem 8rem repeat(COLUMNS,minmax(1.95rem,5.5rem))}
HEAT thead th{align-self:end;border-width:0}
HEAT thead th:first-child{grid-column:3}
HEAT tbody tr{border-top:1px solid var(--line)}
HEAT tbody .n{grid-column:1;grid-row:1/span MODELS;align-self:start;border-width:0}
HEAT .k{grid-column:2;align-self:center;text-align:left;padding-inline-end:.4rem;font-size:.75rem;
font-weight:600;overflow-wrap:anywhere}
HEAT td{min-width:0;height:auto;min-height:2.25rem;display:grid;place-items:center;border-left-width:0}
HEAT td.o{border-left-width:2px}
"""
_NARROW_LINES = """
HEAT tr{grid-template-columns:4.75rem repeat(COLUMNS,minmax(1.95rem,1fr))}
HEAT thead th:first-child{grid-column:2}
HEAT tbody .n{grid-column:1/-1;grid-row:auto}
HEAT .n>div{width:auto;padding-inline-start:0}
HEAT .k{grid-column:1;font-size:.7rem;padding-block:.15rem}
HEAT table{--number:.7rem;--best:.7rem}
HEAT .u{writing-mode:vertical-rl;transform:rotate(180deg)}
"""
_TURNED = """
HEAT thead{display:none}
HEAT .y{display:block;text-align:left;font-size:.75rem;padding:.3rem .4rem .3rem 0;overflow-wrap:anywhere;
align-self:center}
HEAT tr{grid-auto-flow:column;grid-template-columns:minmax(4.5rem,12rem) repeat(MODELS,minmax(2.3rem,1fr));
grid-template-rows:repeat(calc(COLUMNS + 2),auto)}
HEAT tbody .n{grid-row:1}
HEAT .k{grid-column:auto;align-self:end;text-align:center;padding:.2rem .1rem;font-size:.75rem}
HEAT td{min-height:1.9rem}
HEAT td.o{border-left-width:0;border-top:2px dashed var(--muted)}
"""

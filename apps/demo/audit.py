"""The demo's page of an audit: a slider moves the challenge age over curves that `audit.json` measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from apps.demo.line_chart import Chart, ChartLine
from finetune.errors import DataError
from finetune.runs.folder import read_json

RECORD = "audit.json"
ABOUT = (
    "Which share of minors is taken for the challenge age or older, and which share of adults is asked for a "
    "document? Move the slider: every number was measured on the images of the audit, none is computed for "
    "uploaded ones."
)
SLIDER = "Challenge age: who appears younger is asked for a document"
_TICKS = (0, 20, 40, 60, 80, 100)
# Okabe and Ito's vermilion and blue, lighter in dark mode; dashes tell the lines apart without colour.
_STYLE = """
.crl-audit{--minors:#d55e00;--adults:#0072b2}
.dark .crl-audit{--minors:#ff8a3d;--adults:#56b4e9}
.crl-audit .charts{display:flex;flex-wrap:wrap;gap:1.5rem 2.5rem}
.crl-audit figure{flex:1 1 20rem;max-width:44rem;min-width:0;margin:0}
.crl-audit svg{display:block;width:100%;height:auto;overflow:visible}
.crl-audit svg text{fill:currentColor;font-family:inherit;font-size:12.5px}
.crl-audit svg .heading{font-size:14px;font-weight:600}
.crl-audit svg .label{font-weight:600}
.crl-audit svg .tick{font-size:11.5px;opacity:.8}
.crl-audit svg .grid{stroke:currentColor;stroke-opacity:.13}
.crl-audit svg .zero{stroke:currentColor;stroke-opacity:.55}
.crl-audit svg .line{fill:none;stroke-width:2.4}
.crl-audit svg .line.leader{stroke-width:1.2;stroke-dasharray:none}
.crl-audit svg .minors{stroke:var(--minors)}
.crl-audit svg .adults{stroke:var(--adults);stroke-dasharray:9 3}
.crl-audit svg .minors-end,.crl-audit svg .adults-end{stroke-width:1;stroke-dasharray:2 3}
.crl-audit svg .minors-end{stroke:var(--minors)}
.crl-audit svg .adults-end{stroke:var(--adults)}
.crl-audit svg .at{stroke:currentColor;stroke-width:1.4;stroke-opacity:.7}
.crl-audit table{margin:.25rem 0 1rem;border-collapse:collapse;font-variant-numeric:tabular-nums}
.crl-audit caption{text-align:left;padding:.25rem 0;font-weight:600}
.crl-audit th,.crl-audit td{padding:.3rem .8rem .3rem 0;text-align:left;border-bottom:1px solid;
border-color:color-mix(in srgb,currentColor 20%,transparent)}
.crl-audit tbody th{font-weight:400}
.crl-audit td{text-align:right;white-space:nowrap}
.crl-audit .shows{max-width:60rem;margin:0 0 1.5rem;line-height:1.5;font-weight:600}
.crl-audit ul{margin:1rem 0 0;padding-left:1.2rem;max-width:70rem;list-style:disc}
.crl-audit li{margin:.3rem 0;line-height:1.5}
@media (max-width:640px){.crl-audit svg text{font-size:14px}.crl-audit svg .tick{font-size:13px}
.crl-audit svg .heading{font-size:16px}.crl-audit td{white-space:normal}}
"""


@dataclass(frozen=True)
class Audit:
    """A measured audit.

    Args:
        name: the audited system.
        headline: the challenge age to begin with.
        bands: the ages of minors and adults, in words.
        unit: people or images.
        rows: by challenge age: rates of minors and adults, severity, what the number can show.
        passing: true ages, and by challenge age the share (percent) taken for it or older.
        notes: what is told with it.
    """

    name: str
    headline: int
    bands: tuple[str, str]
    unit: str
    rows: Mapping[int, Mapping[str, Any]]
    passing: tuple[np.ndarray, Mapping[int, np.ndarray]]
    notes: tuple[str, ...]

    @property
    def ages(self) -> tuple[int, ...]:
        """The challenge ages, ascending."""
        return tuple(sorted(self.rows))


def read_audit(folder: Path) -> Audit:
    """Read what `audit.json` of a folder holds; DataError for anything that no audit wrote."""
    file = folder / RECORD if folder.is_dir() else folder
    if not file.is_file():
        raise DataError(f"{file} is not there: --audit takes the folder of an audit, which holds {RECORD}")
    found = read_json(file)
    try:
        return _audit(found)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(f"{file} holds no audit that this page can show: {error!r}") from None


def _audit(found: Mapping[str, Any]) -> Audit:
    rows = {int(row["challenge"]): _row(row) for row in found["challenge_ages"]}
    table = found["pass_rates"]
    shares = {age: np.array([_number(row["at"][str(age)]) for row in table]) for age in rows}
    minors, adults = ("{:d}-{:d}".format(*found[band]) for band in ("minor_band", "adult_band"))
    headline = int(found["headline"])
    if headline not in rows:
        raise ValueError(f"its headline {headline} is none of its challenge ages")
    if found["unit"] not in ("people", "images"):
        raise ValueError("its unit is neither people nor images")
    return Audit(
        name=str(found["name"]),
        headline=headline,
        bands=(minors, adults),
        unit=found["unit"],
        rows=rows,
        passing=(np.array([_number(row["true_age"]) for row in table]), shares),
        notes=tuple(map(str, [*found["notes"], *found["notices"]])),
    )


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    rates = {}
    for kind in ("fpr", "burden"):
        ends = {key: _number_or_none(row[kind][key]) for key in ("percent", "low", "high")}
        counts = {key: int(row[kind][key]) for key in ("images", "units", "hits")}
        rates[kind] = {**ends, **counts}
    severity = {key: _number_or_none(row["severity"][key]) for key in ("mean", "p95")}
    return {**rates, "severity": severity, "shows": str(row["shows"])}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is not a number")
    return float(value)


def _number_or_none(value: Any) -> float | None:
    return None if value is None else _number(value)


def nearest_age(audit: Audit, asked: object) -> int:
    """Return the challenge age of the audit nearest to the slider's value; the headline for no number."""
    if isinstance(asked, bool) or not isinstance(asked, int | float) or not math.isfinite(asked):
        return audit.headline
    return min(audit.ages, key=lambda age: abs(age - asked))


def audit_html(audit: Audit, asked: object) -> str:
    """Return the page's fragment at one challenge age: a table, what n can show, two charts, the notes."""
    age = nearest_age(audit, asked)
    row, (minors, adults) = audit.rows[age], audit.bands
    lines = [
        (f"Minors ({minors}) taken for {age} or older (FPR)", _rate(row["fpr"]), _of(row["fpr"], audit)),
        (f"Adults ({adults}) taken for younger (burden)", _rate(row["burden"]), _of(row["burden"], audit)),
        ("Years that such minors lack, mean (severity)", _years(row["severity"]["mean"]), ""),
        ("The same, 95th percentile", _years(row["severity"]["p95"]), ""),
    ]
    cells = "".join(
        f'<tr><th scope="row">{escape(what)}</th><td>{value}</td><td>{of}</td></tr>'
        for what, value, of in lines
    )
    charts = "".join(f"<figure>{chart}</figure>" for chart in _charts(audit, age))
    notes = "".join(f"<li>{escape(note)}</li>" for note in audit.notes)
    return (
        f'<div class="crl-audit"><style>{_STYLE}</style><table><caption>{escape(audit.name)} at challenge '
        f'age {age}</caption><tbody>{cells}</tbody></table><p class="shows">{escape(row["shows"])}</p>'
        f'<div class="charts">{charts}</div><ul>{notes}</ul></div>'
    )


def _rate(rate: Mapping[str, Any]) -> str:
    if rate["percent"] is None:
        return "not measured"
    return f"{rate['percent']:.1f} % [{rate['low']:.1f}, {rate['high']:.1f}]"


def _of(rate: Mapping[str, Any], audit: Audit) -> str:
    people = f", {rate['units']:,} people" if audit.unit == "people" else ""
    return f"{rate['hits']:,} of {rate['images']:,} images{people}"


def _years(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} years"


def _charts(audit: Audit, age: int) -> list[str]:
    """Return both charts that can be drawn: rates by challenge age, and rates by true age at this one."""
    drawn = []
    ages = np.array(audit.ages, dtype=float)
    kinds = [("fpr", "minors", "FPR"), ("burden", "adults", "burden")]
    known = [kind for kind in kinds if all(audit.rows[a][kind[0]]["percent"] is not None for a in audit.ages)]
    marker = ChartLine("at", "", np.array([age, age], dtype=float), np.array([0.0, 100.0]))
    if known and len(ages) > 1:
        lines = [ChartLine(name, label, ages, _ends(audit, kind, "percent")) for kind, name, label in known]
        ends = [
            ChartLine(f"{name}-end", "", ages, _ends(audit, kind, end))
            for kind, name, _ in known
            for end in ("low", "high")
        ]
        chart = _chart("crl-audit-rates", "Rates by challenge age", "challenge age (years)", ages)
        drawn.append(chart.draw([*ends, marker, *lines]))
    true, shares = audit.passing
    if len(true) > 1:
        chart = _chart(
            "crl-audit-passing", f"Taken for {age} or older, by true age", "true age (years)", true
        )
        drawn.append(chart.draw([ChartLine("adults", "", true, shares[age])]))
    return drawn


def _ends(audit: Audit, kind: str, key: str) -> np.ndarray:
    return np.array([audit.rows[age][kind][key] for age in audit.ages], dtype=float)


def _chart(key: str, title: str, x_label: str, x: np.ndarray) -> Chart:
    first, last = int(x.min()), int(x.max())
    step = max(1, math.ceil((last - first) / 8))
    ticks: Sequence[float] = [*range(first, last, step), last]
    if len(ticks) > 2 and ticks[-1] - ticks[-2] < step:
        ticks = [*ticks[:-2], last]
    words = f"{title}, in percent of images. The table above has the numbers at the slider's age."
    return Chart(key, title, words, x_label, "% of images", ticks, _TICKS)

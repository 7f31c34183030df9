"""A finished study to read and to compute with: report.md, report.json, table.csv and the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from finetune.experiments.study.arm_names import MARGIN_HEADS
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import Cell
from finetune.experiments.study.conclusion import interval_words
from finetune.experiments.study.curve_figures import UNBOUNDED
from finetune.experiments.study.figures import draw_study
from finetune.experiments.study.schedule import unlisted_words
from finetune.figures.markdown import (
    NOT_MEASURED,
    Picture,
    escape,
    interval,
    number,
    p_text,
    page,
    show_pictures,
    signed,
    table,
)
from finetune.metrics.bootstrap import summarise
from finetune.metrics.paired_tests import least_wilcoxon_p
from finetune.runs.csv_file import csv_text
from finetune.runs.files import json_text, write_bytes

Row = Mapping[str, Any]
_FAILURES = {"diverged": "diverged", "unscored": "without a score"}
_BEYOND = (
    "Student's interval knows no ends of the scale: those of single arms that reach beyond 0 or 100 % are "
    "shown up to there, and so are the bands in the figures. report.json and table.csv hold them whole."
)

_OF_STEPS = "A difference from cross-entropy that is not shown here may be one of step size."
_OF_RATES = (
    "The optimiser divides by the size of the gradient, so a constant factor on a loss makes no longer "
    "steps: the control shows what the learning rate does to cross-entropy, not whether CRL is a longer step."
)
_OWN_START = (
    "Margin heads of age and fine studies start from a classifier of their own; in general studies they "
    "start like all other arms."
)


@dataclass(frozen=True)
class StudyPage:
    """What the study knows beside its cells.

    Args:
        title: of the page.
        what_ran: lines on data, network, training, device and versions; Markdown.
        published: what others report by the arm's name, as "16.15 (CRL paper, Table II, 100 epochs)". The
            column is left out where there is nothing.
        notes: further lines that a reader must know.
        adaptive: whether the optimiser divides by the size of the gradient; for `summarise_study`.
        temperatures: by the arm's name, those that fit its test images best, one a seed.
        caution: what must be known before the conclusion is read, a sentence or two; it opens it.
    """

    title: str
    what_ran: Sequence[str]
    published: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    adaptive: bool = False
    caution: str = ""
    temperatures: Mapping[str, Sequence[float]] = field(default_factory=dict)


def write_study_report(
    folder: Path, summary: Mapping[str, Any], cells: Sequence[Cell], arms: Sequence[Arm], page: StudyPage
) -> Path:
    """Write report.json, table.csv, pictures/ and, last, report.md into the study's folder; return the page.

    The same summary, cells and page give the same files.

    Args:
        folder: the study's.
        summary: of `summarise_study`.
        cells: the finished cells.
        arms: of the study.
        page: title, what ran, the published column and notes.
    """
    others = unlisted_words(folder, arms)
    page = replace(page, notes=[*page.notes, *([escape(others)] if others else [])])
    pictures = draw_study(folder, summary, cells, arms)
    record = {
        "title": page.title,
        **summary,
        "published": dict(page.published),
        "what_ran": list(page.what_ran),
        "notes": list(page.notes),
        **({"temperatures": dict(page.temperatures)} if page.temperatures else {}),
        "pictures": {name: picture.file.as_posix() for name, picture in pictures.items()},
    }
    write_bytes(folder / "report.json", json_text(record, indent=1).encode())
    write_bytes(folder / "table.csv", _csv(summary, page.published).encode())
    file = folder / "report.md"
    write_bytes(file, report_text(summary, page, pictures).encode())
    return file


def report_text(summary: Mapping[str, Any], told: StudyPage, pictures: Mapping[str, Picture]) -> str:
    """Return the page: conclusion, table, figures, controls, grid, what ran, and how to read it."""
    grid = [pictures["grid"]] if "grid" in pictures else []
    others = [picture for name, picture in pictures.items() if name != "grid"]
    sections = (
        ("Conclusion", _bullets([escape(line) for line in summary["conclusion"]])),
        ("Scores", _score_table(summary, told.published)),
        ("Differences from cross-entropy", _difference_tables(summary)),
        ("Figures", show_pictures(others)),
        ("Controls", _controls(summary)),
        ("Grid", show_pictures(grid)),
        ("Temperatures", _temperatures(summary, told.temperatures)),
        ("Cost", _cost_table(summary)),
        ("What ran", _bullets(told.what_ran)),
        ("Notes", _bullets(told.notes)),
        ("How to read this", _bullets(_how_to_read(summary))),
    )
    return page(escape(told.title), sections)


def _score_table(summary: Mapping[str, Any], published: Mapping[str, str]) -> str:
    measures, level = summary["measures"], f"{100 * summary['level']:g} % interval"
    header = ["arm", "n"]
    for measure in measures:
        header += [f"{escape(measure['label'])}, mean ± sd", level]
    header += [f"error (%), {level}"]
    shown = any(published.get(row["name"]) for row in summary["arms"])
    header += ["reported by others"] if shown else []
    rows = []
    for row in summary["arms"]:
        cells = [escape(row["title"]), _trainings(row)]
        for measure in measures:
            found = row["measures"][measure["key"]]
            cells += [_mean_sd(found), _ends(found)]
        ends = _ends({**next(iter(row["measures"].values())), "interval": row["error"]["interval"]})
        cells.append(f"{number(row['error']['mean'])} ({ends})")
        rows.append(cells + ([escape(published.get(row["name"], ""))] if shown else []))
    first = escape(measures[0]["label"].removesuffix("(%)").strip())
    note = f"n: seeds; sd divides by n - 1; error: 100 minus {first}. "
    note += (
        "What others report was measured by them, on their runs, and is compared with nothing here." * shown
    )
    return f"{table(header, rows)}\n\n{note.strip()}"


def _difference_tables(summary: Mapping[str, Any]) -> str | None:
    """Return one table per measure; None where no arm shares a seed with cross-entropy."""
    parts = []
    for measure in summary["measures"]:
        rows = [
            [escape(row["title"]), *_difference_cells(row["measures"][measure["key"]]["difference"])]
            for row in summary["arms"]
            if row["measures"][measure["key"]]["difference"] is not None
        ]
        if rows:
            parts.append(f"{escape(measure['label'])}:\n\n{table(_difference_header(summary), rows)}")
    if not parts:
        return None
    return "\n\n".join(parts) + f"\n\n{_difference_notes(summary)}"


def _difference_header(summary: Mapping[str, Any]) -> list[str]:
    return [
        "arm",
        "pairs",
        "difference (points)",
        f"{100 * summary['level']:g} % interval",
        "t-test p",
        "Holm",
        "Wilcoxon p",
        "Holm",
        "higher / equal / lower",
        "shown",
    ]


def _difference_cells(found: Row) -> list[str]:
    return [
        str(found["n"]),
        signed(found["mean"]),
        interval_words(found),
        *(escape(p_text(found[key])) for key in ("p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm")),
        f"{found['higher']} / {found['equal']} / {found['lower']}",
        "yes" if found["shown"] else "no",
    ]


def _difference_notes(summary: Mapping[str, Any]) -> str:
    limit = p_text(round(1 - summary["level"], 9))
    return (
        f"Arm minus cross-entropy, seed by seed. Holm: the p adjusted over the {summary['family']} arms "
        "compared with cross-entropy, for each measure and test separately. Shown: the adjusted t-test below "
        f"{limit} and an interval without zero. No p where all seeds differ by the same. Only the first "
        "measure decides the conclusion."
    )


def _controls(summary: Mapping[str, Any]) -> str | None:
    """Return the table of CRL against cross-entropy at the matched learning rate."""
    key = summary["measures"][0]["key"]
    rows, factors = [], {row["name"]: row["lr_factor"] for row in summary["arms"]}
    for row in summary["controls"]:
        found = row["measures"][key]
        if found is not None:
            pair = [escape(row["title"]), escape(row["control_title"]), number(factors[row["control"]], 3)]
            rows.append(pair + _difference_cells(found))
    if not rows:
        return None
    header = ["CRL", "its control", "learning rate times", *_difference_header(summary)[1:]]
    note = (
        "CRL minus cross-entropy trained at a learning rate that is multiplied by the mean of CRL's gradient "
        "factor over its own training with the same seed (mean over images of gradient magnitude over "
        "cross-entropy's; or, where it says ratio of sums, the sum of the one over the sum of the other). "
        "The control's learning rate multiplies its weight decay, where there is one, too; CRL's factor "
        f"multiplies its gradient alone. Holm's correction is over these rows alone. "
        f"{_OF_RATES if summary['adaptive'] else _OF_STEPS}"
    )
    return f"{table(header, rows, numbers_from=2)}\n\n{note}"


def _temperatures(summary: Mapping[str, Any], found: Mapping[str, Sequence[float]]) -> str | None:
    """Return which temperature each arm's probabilities would need; None where no cell tells one."""
    rows = [
        (row["title"], summarise(found[row["name"]])) for row in summary["arms"] if found.get(row["name"])
    ]
    if not rows:
        return None
    cells = [[escape(title), str(one.n), number(one.mean, 3), number(one.sd, 3)] for title, one in rows]
    note = (
        "Temperature T of softmax(logits / T) that fits the test images best; above 1 the loss is too sure."
    )
    return f"{table(['arm', 'n', 'T, mean', 'sd'], cells)}\n\n{note}"


def _cost_table(summary: Mapping[str, Any]) -> str:
    header = [
        "arm",
        "seconds per training",
        "learning rate times",
        "gradient factor, mean",
        "ratio of sums",
        "device",
    ]
    rows = [
        [
            escape(row["title"]),
            number(row["seconds"], 1),
            number(row["lr_factor"], 3),
            _factor(row["gradient_factor"]),
            _factor(row["gradient_ratio"]),
            escape(", ".join(row["devices"])) or NOT_MEASURED,
        ]
        for row in summary["arms"]
    ]
    note = (
        "Means over seeds. Where several cells trained side by side, a cell's seconds are its share of the "
        "whole. Gradient factor: gradient magnitude on the true logit over cross-entropy's (1 - p), over the "
        "whole training; 1 is cross-entropy's. Where it has no bound, as NLLR's 1 / (1 - p), the ratio of "
        "sums shows more."
    )
    return f"{table(header, rows)}\n\n{note}"


def _factor(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.4g}" if value <= UNBOUNDED else f"over {UNBOUNDED:g}"


def _mean_sd(found: Row) -> str:
    return (
        number(found["mean"]) if found["sd"] is None else f"{number(found['mean'])} ± {number(found['sd'])}"
    )


def _ends(found: Row) -> str:
    """Return the interval of an arm's scores, or why several seeds have none."""
    if found["interval"] is None and found["n"] > 1:
        return "no interval: all seeds alike"
    return interval(_within(found["interval"]), 2)


def _trainings(row: Row) -> str:
    """Return how many trainings an arm has, and how many of them failed."""
    failed = [f"{row[kind]} {told}" for kind, told in _FAILURES.items() if row[kind]]
    return f"{row['n']} ({', '.join(failed)})" if failed else str(row["n"])


def _within(ends: Sequence[float] | None) -> list[float] | None:
    """Return an interval of scores, which lie in 0 to 100 %."""
    return None if ends is None else [min(max(end, 0.0), 100.0) for end in ends]


def _how_to_read(summary: Mapping[str, Any]) -> list[str]:
    pairs = max((row["n"] for row in summary["arms"]), default=0)
    least = least_wilcoxon_p(max(pairs, 1))
    ends = [found["interval"] for row in summary["arms"] for found in row["measures"].values()]
    margins = any(row["name"].split("-")[0] in MARGIN_HEADS for row in summary["arms"])
    beyond = any(pair is not None and _within(pair) != pair for pair in ends)
    return [
        "A seed fixes the first weights, the order of the images, augmentation and dropout. Arms with the "
        "same seed start alike and see the same batches, so they are compared seed by seed."
        + f" {_OWN_START}"
        * margins,
        "Intervals and p-values are about training seeds: what another training on the same images, tested "
        "on the same images, might give. They say nothing of other test images, networks, budgets or "
        'learning rates; every arm ran with the one setting under "What ran", tuned for none of them here.',
        "Intervals of single arms may overlap although a paired difference is shown: the pairs take out what "
        "the seeds have in common.",
        *[_BEYOND] * beyond,
        f"Wilcoxon's signed-rank test with {pairs} pairs cannot give a p below {p_text(least)}, before "
        "Holm's correction; five pairs never reach 0.05, six do.",
        "Loss values of different losses are on different scales and are compared nowhere.",
    ]


def _bullets(lines: Sequence[str]) -> str | None:
    return "\n".join(f"* {line}" for line in lines) or None


def _csv(summary: Mapping[str, Any], published: Mapping[str, str]) -> str:
    """Return a line per arm and measure, in full precision."""
    lines: list[list[Any]] = []
    single = ("n", "mean", "sd", "low", "high")
    means = ("seconds", "lr_factor", "gradient_factor", "gradient_ratio")
    paired = ("higher", "equal", "lower", "p_t", "p_t_holm", "p_wilcoxon", "p_wilcoxon_holm", "shown")
    differences = [f"difference_{name}" for name in single]
    header = ["arm", "title", "measure", *single, *differences, *paired, *means, "reported_by_others"]
    for row in summary["arms"]:
        for key, found in row["measures"].items():
            difference = found["difference"] or {}
            lines.append(
                [row["name"], row["title"], key, *_single(found), *_single(difference)]
                + [difference.get(name) for name in paired]
                + [*(row[name] for name in means), published.get(row["name"], "")]
            )
    return csv_text(header, lines)


def _single(found: Row) -> list[Any]:
    return [*(found.get(name) for name in ("n", "mean", "sd")), *(found.get("interval") or (None, None))]

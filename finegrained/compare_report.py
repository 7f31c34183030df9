"""Two results side by side for people: compare.md with the paired tests, the gallery and the heat maps.

Every number and the conclusion come from the comparison (`finegrained.comparison`); no sentence here says
that one result is better than the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from finegrained.data.class_names import display_name
from finegrained.figures.class_heat_map import draw_class_heat_map
from finegrained.figures.image_grid import Line, Strip, Tile, answer_line, draw_grid, show_file
from finegrained.report import PICTURES, PICTURES_NOTE
from finegrained.results import FineResult, Predictions
from finetune.figures import canvas
from finetune.figures.gallery import short_names
from finetune.figures.markdown import (
    NOT_MEASURED,
    Picture,
    escape,
    interval,
    number,
    page,
    show_pictures,
    table,
)
from finetune.figures.selection import choose_disagreements, choose_telling
from finetune.runs.files import write_bytes
from finetune.runs.folder import image_files

Comparison = Mapping[str, Any]
MEASURES = (
    ("top1", "top-1 accuracy"),
    ("top5", "top-5 accuracy"),
    ("per_class", "mean of the per-class accuracies"),
)
CONTROLLED = {
    "nothing": "No setting differs.",
    "loss": "Only the loss differs.",
    "head": "Only the head differs.",
}
UNCONTROLLED = (
    "**Not a controlled comparison**: it is not the loss alone, nor the head alone, that differs, so no "
    "difference can be laid to one of them."
)
PICKED = (
    "Chosen by rule, not by eye: per true class the image on which the two probabilities of the true class "
    "differ most, of at most eight classes. Single images show what kind of picture is concerned, not which "
    "result is better."
)
TELLING = (
    "Chosen by rule, not by eye: per true class, of at most eight classes, the image on which the two differ "
    "most among those that only one gets right (where the data have up to eight classes, else among those "
    "that both get right). Columns: their classes, and what either result takes them for."
)
SIDE, COLUMNS = 1.36, 20  # inches of a gallery picture; columns of the heat maps


def write_comparison(
    a: FineResult, b: FineResult, comparison: Comparison, out: Path, *, pictures: bool = True
) -> Path:
    """Write compare.md and its pictures into the folder `out`; return the page.

    Args:
        a, b: the two results; where several seeds were compared, one of each side, for the pictures.
        comparison: what `compare_results` or `compare_seeds` returned for them.
        out: a folder; it is made if need be.
        pictures: draw the gallery of disagreements and the heat maps.
    """
    out.mkdir(parents=True, exist_ok=True)
    drawn = draw_comparison(a, b, comparison["names"], out) if pictures else []
    first, second = map(escape, comparison["names"])
    sections = (
        ("Conclusion", escape(comparison["conclusion"])),
        ("Differences", differences(comparison)),
        ("Seeds", per_seed(comparison)),
        ("What differs", what_differs(comparison)),
        ("Pictures", show_pictures(drawn)),
    )
    file = out / "compare.md"
    write_bytes(file, page(f"{second} against {first}", sections).encode())
    return file


def draw_comparison(a: FineResult, b: FineResult, names: Sequence[str], out: Path) -> list[Picture]:
    """Draw the gallery of disagreements and the heat maps of the most telling images under `out`.

    A picture that would be empty, as the heat maps of two results that are right nowhere, is left out.
    """
    first, second = a.predictions.in_order(), b.predictions.in_order()
    files, called = image_files(a.run, first.path), (names[0], names[1])
    place = PurePosixPath(PICTURES)
    draw_disagreements(files, first, second, called, out / place / "disagreements.png")
    made = [
        Picture(place / "disagreements.png", "Where the two disagree", f"{PICKED} {PICTURES_NOTE}"),
    ]
    shown = choose_telling(first.target, first.probs, second.probs)
    if shown:
        draw_class_heat_map(
            [files[row] for row in shown],
            first.target[shown],
            {name: side.probs[shown] for name, side in zip(called, (first, second), strict=True)},
            a.class_names,
            telling_columns(first, second, shown),
            out / place / "heat_maps.png",
            subtitle="per true class, the image on which the two differ most, where only one is right if any",
        )
        made.append(Picture(place / "heat_maps.png", "Softmax heat maps", f"{TELLING} {PICTURES_NOTE}"))
    return made


def telling_columns(first: Predictions, second: Predictions, rows: Sequence[int]) -> list[int]:
    """Return the classes that get a column: of each row its true one and what either result says, 20 at most.

    All classes where there are no more than eight, in official order.
    """
    classes = len(first.class_names)
    if classes <= 8:
        return list(range(classes))
    seen: dict[int, None] = {}
    for row in rows:
        seen |= dict.fromkeys(int(side[row]) for side in (first.target, first.preds, second.preds))
    return list(seen)[:COLUMNS]


def draw_disagreements(
    files: Sequence[Path], first: Predictions, second: Predictions, names: tuple[str, str], out: Path
) -> Path:
    """Draw images that both, only the first, and only the second get right, with both answers below each.

    Args:
        files: (N,) image files in the order of the predictions.
        first, second: the two results' predictions of the same images in the same order.
        names: what the two results are called.
        out: the PNG to write.

    Returns:
        `out`.
    """
    short = short_names(names)
    strips = []
    for kind in choose_disagreements(first.target, first.probs, second.probs):
        rows = [row for row in kind.picks if row is not None]
        tiles = [_tile(files[row], row, first, second, short) for row in rows]
        strips.append(Strip(tiles or [None], heading=kind.title(short)))
    title = f"Where {short[0]} and {short[1]} disagree: {canvas.count_text(len(files), 'test image')}"
    subtitle = (
        "per true class, the image on which the two probabilities of the true class differ most, of at most "
        "8 classes\nabove it the true class, below it both answers"
    )
    spelled = [f"{mark} = {name}" for mark, name in zip(short, names, strict=True) if name.upper() != mark]
    subtitle += f"\n{', '.join(spelled)}" if spelled else ""
    return draw_grid(out, title, subtitle, strips, side=SIDE)


def _tile(file: Path, row: int, first: Predictions, second: Predictions, short: tuple[str, str]) -> Tile:
    names, truth = first.class_names, int(first.target[row])
    answers = []
    for mark, side in zip(short, (first, second), strict=True):
        said = int(side.preds[row])
        words = answer_line(display_name(names[said]), float(side.probs[row, said]), said == truth, mark)
        answers.append(words)
    return Tile(show_file(file), (Line(display_name(names[truth]), bold=True),), tuple(answers))


def differences(comparison: Comparison) -> str:
    """Return the table of the accuracies of both results, with the paired difference and its test."""
    first, second = map(escape, comparison["names"])
    header = ["accuracy (%)", first, second, "difference (points)", "95 % interval", "p"]
    rows = []
    for key, words in MEASURES:
        found = comparison[key]
        if found is None:
            continue
        size = [f"{found['difference']:+.2f}", *_tested(found)]
        rows.append([words, number(found["a"]), number(found["b"]), *size])
    notes = (
        f"Second minus first on the same {comparison['n']:,} images of {comparison['classes']:,} classes. "
        f"Intervals and p resample images, paired, {comparison['resamples']:,} times; for the mean over "
        "classes within each class. An interval that holds zero shows no difference. The conclusion is about "
        "top-1 accuracy alone; the other rows are not corrected for looking several times."
    )
    for key, words in MEASURES:
        if (comparison[key] or {}).get("reason"):
            notes += f" No interval and no p for the {words}: {comparison[key]['reason']}."
    test = comparison.get("mcnemar")
    if test:
        notes += (
            f" McNemar's exact test on top-1: {test['b']:,} images only the first has right, {test['c']:,} "
            f"only the second, p = {test['p']:.2g}."
        )
    return f"{table(header, rows)}\n\n{notes}"


def _tested(found: Mapping[str, Any]) -> list[str]:
    if found["interval"] is None:
        return [NOT_MEASURED, NOT_MEASURED]
    low, high = found["interval"]
    return [f"{low:+.2f} to {high:+.2f}", f"{found['p']:.2g}"]


def per_seed(comparison: Comparison) -> str | None:
    """Return the table of top-1 per seed, and mean, sd and interval over seeds; None for one seed."""
    if not comparison.get("per_seed"):
        return None
    first, second = map(escape, comparison["names"])
    header = ["top-1 (%)", first, second, "difference", "McNemar's p"]
    rows = [
        [f"seed {row['seed']}", *_seed_cells(row["top1"]), f"{row['mcnemar']['p']:.2g}"]
        for row in comparison["per_seed"]
    ]
    sides = [*comparison["seed_scores"].values(), comparison["seed_difference"]]
    rows += [
        ["mean ± sd", *(f"{number(side['mean'])} ± {number(side['sd'])}" for side in sides), ""],
        ["95 % interval", *(interval(side["interval"], 2) for side in sides), ""],
    ]
    notes = (
        f"Intervals are Student's over {sides[-1]['n']} seeds, for these test images; sd divides by n - 1. "
        "Seeds of both sides are paired."
    )
    return f"{table(header, rows)}\n\n{notes}"


def _seed_cells(found: Mapping[str, float]) -> list[str]:
    return [number(found["a"]), number(found["b"]), f"{found['difference']:+.2f}"]


def what_differs(comparison: Comparison) -> str:
    """Return the settings that differ and whether the loss alone, or the head alone, does."""
    lead = CONTROLLED.get(comparison["changed"], UNCONTROLLED)
    first, second = map(escape, comparison["names"])
    items = [*comparison["settings"], *comparison["environment"]]
    if not items:
        return lead
    rows = [[escape(item["field"]), *(_cell(item[side]) for side in ("a", "b"))] for item in items]
    return f"{lead}\n\n{table(['setting', first, second], rows, numbers_from=3)}"


def _cell(value: Any) -> str:
    return NOT_MEASURED if value is None else escape(value)

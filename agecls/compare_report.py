"""Two results side by side for people: compare.md with the paired tests, the gallery and the heat maps.

Every number and the conclusion come from the comparison (`agecls.comparison`); no sentence here says that one
result is better than the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from agecls.report import FACES_NOTE, PICTURES
from agecls.results import AgeResult
from finetune.figures.gallery import draw_gallery, draw_heat_maps
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
MEASURES = (("exact", "exact"), ("one_off", "one-off"))
PICKED = (
    "Chosen by rule, not by eye: per true group the image on which the two probabilities of the true group "
    "differ most. Single images show what kind of picture is concerned, not which result is better."
)
TELLING = (
    "Chosen by rule, not by eye: per true group the image on which the two differ most among those that only "
    "one gets right, else among those that both get right; a group without either has no row."
)


def write_comparison(
    a: AgeResult, b: AgeResult, comparison: Comparison, out: Path, *, pictures: bool = True
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
        ("Folds", per_fold(comparison)),
        ("Seeds", per_seed(comparison)),
        ("What differs", what_differs(comparison)),
        ("Pictures", show_pictures(drawn)),
    )
    file = out / "compare.md"
    write_bytes(file, page(f"{second} against {first}", sections).encode())
    return file


def draw_comparison(a: AgeResult, b: AgeResult, names: tuple[str, str], out: Path) -> list[Picture]:
    """Draw the gallery of disagreements and the heat maps of the most telling images under `out`."""
    first, second = a.predictions.in_order(), b.predictions.in_order()
    target, folder = first.target, out / PICTURES
    files = image_files(a.run, first.path)
    rows = choose_disagreements(target, first.probs, second.probs)
    draw_gallery(
        rows,
        files,
        target,
        first.probs,
        second.probs,
        a.class_names,
        folder / "disagreements.png",
        names=(names[0], names[1]),
    )
    shown = choose_telling(target, first.probs, second.probs)
    draw_heat_maps(
        [files[row] for row in shown],
        target[shown],
        {name: side.probs[shown] for name, side in zip(names, (first, second), strict=True)},
        a.class_names,
        folder / "heat_maps.png",
        subtitle="per true group, the image on which the two differ most, where only one is right if any",
    )
    place = PurePosixPath(PICTURES)
    return [
        Picture(place / "disagreements.png", "Where the two disagree", f"{PICKED} {FACES_NOTE}"),
        Picture(place / "heat_maps.png", "Softmax heat maps", f"{TELLING} {FACES_NOTE}"),
    ]


def differences(comparison: Comparison) -> str:
    """Return the table of both accuracies of both results, with the paired difference and its test."""
    first, second = map(escape, comparison["names"])
    header = ["accuracy (%)", first, second, "difference (points)", "95 % interval", "p"]
    rows = []
    for key, words in MEASURES:
        found = comparison[key]
        kinds = [(f"{words}, mean over folds", found), (f"{words}, pooled over images", found["pooled"])]
        if found["by_user"]:
            albums = f"{words}, mean over folds, {found['by_user']['clusters']:,} users resampled"
            kinds.append((albums, {**found, **found["by_user"]}))
        rows += [[name, *_difference_cells(kind)] for name, kind in kinds]
    notes = (
        f"Second minus first on the same {comparison['n']:,} images of {comparison['subjects']:,} subjects "
        f"(in effect {number(comparison['effective_subjects'], 0)} of equal weight). Intervals and p "
        "resample whole subjects within folds, paired; an interval that holds zero shows no difference."
    )
    test = comparison.get("mcnemar")
    if test:
        notes += (
            f" McNemar on exact hits: {test['b']:,} images only the first has right, {test['c']:,} only the "
            f"second, p = {test['p']:.2g}; it takes images as independent, which those of one person are not."
        )
    return f"{table(header, rows)}\n\n{notes}"


def _difference_cells(found: Mapping[str, Any]) -> list[str]:
    low, high = found["interval"]
    size = f"{found['difference']:+.2f}"
    return [number(found["a"]), number(found["b"]), size, f"{low:+.2f} to {high:+.2f}", f"{found['p']:.2g}"]


def per_fold(comparison: Comparison) -> str:
    """Return the table of differences per fold."""
    columns = zip(comparison["folds"], *(comparison[key]["per_fold"] for key, _ in MEASURES), strict=True)
    rows = [[str(fold), f"{exact:+.2f}", f"{one_off:+.2f}"] for fold, exact, one_off in columns]
    return table(["fold", "exact: difference", "one-off: difference"], rows)


def per_seed(comparison: Comparison) -> str | None:
    """Return the table of differences per seed and their spread; None where one seed was compared."""
    if not comparison.get("per_seed"):
        return None
    rows = [[str(r["seed"]), f"{r['exact']:+.2f}", f"{r['one_off']:+.2f}"] for r in comparison["per_seed"]]
    lines = [table(["seed", "exact: difference", "one-off: difference"], rows)]
    for key, words in MEASURES:
        found = comparison.get("seed_difference", {}).get(key)
        if found:
            lines.append(
                f"{words[0].upper()}{words[1:]} over {found['n']} seeds: mean {found['mean']:+.2f}, sd "
                f"{number(found['sd'])}, 95 % interval (Student) {interval(found['interval'], 2)} points."
            )
    return "\n\n".join(lines)


def what_differs(comparison: Comparison) -> str:
    """Return the settings that differ and whether the loss alone does."""
    lead = "**Not a controlled comparison**: more than the loss differs, so no difference can be laid to it."
    if not comparison["settings"]:
        lead = "No setting differs."
    elif comparison["controlled"]:
        lead = "Only the loss differs."
    first, second = map(escape, comparison["names"])
    items = [*comparison["settings"], *comparison["environment"]]
    if not items:
        return lead
    rows = [[escape(item["field"]), *(_cell(item[side]) for side in ("a", "b"))] for item in items]
    return f"{lead}\n\n{table(['setting', first, second], rows, numbers_from=3)}"


def _cell(value: Any) -> str:
    return NOT_MEASURED if value is None else escape(value)

"""audit.md: what an age audit found, in tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.measures import FEWEST_UNITS
from finetune.figures.markdown import (
    Picture,
    bullets,
    escape,
    interval,
    number,
    p_text,
    page,
    show_pictures,
    signed,
    table,
)

Scored = Mapping[str, Any]
SEXES = {"m": "male", "f": "female", "": "all"}
GAPS = {"mae": "MAE (years)", "bias": "bias (years)", "fpr": "FPR (points)"}


def audit_page(scored: Scored, pictures: Sequence[Picture]) -> str:
    """Return the page: notes first, then result, rates, errors, fairness, and what else was measured."""
    headline = _at_headline(scored)
    return page(
        f"Age audit: {escape(scored['name'])}",
        [
            ("Read this first", bullets([*scored["notes"], *scored["notices"]])),
            ("Images", _images(scored)),
            (f"At challenge age {scored['headline']}", _headline(scored, headline)),
            ("Every challenge age", _challenge(scored)),
            (f"Pass rate by age, at challenge age {scored['headline']}", _pass_rates(scored)),
            ("Errors in years", _errors(scored)),
            ("Cells of age and sex", _cells(scored)),
            ("Children of 13 to 16", _child_band(scored)),
            ("Labels compared", _fairness(scored)),
            ("Changed images", _robustness(scored.get("robustness"))),
            ("Other data sets", _cross(scored.get("cross"))),
            ("Identity in the outputs", _leak(scored.get("identity_leak"))),
            ("Figures", show_pictures(pictures)),
        ],
    )


def _at_headline(scored: Scored) -> Scored:
    rows: Sequence[Scored] = scored["challenge_ages"]
    return next(row for row in rows if row["challenge"] == scored["headline"])


def rate_text(rate: Scored) -> str:
    """Return a rate with its interval, and how that was made where it is no bootstrap's."""
    if rate["percent"] is None:
        return number(None)
    how = "" if rate["method"] == "bootstrap" else f" ({rate['method']})"
    return f"{rate['percent']:.1f} % [{rate['low']:.1f}, {rate['high']:.1f}]{how}"


def mean_text(found: Scored) -> str:
    """Return a mean in years with its interval."""
    ends = found["interval"]
    return number(found["mean"]) + ("" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]")


def _images(scored: Scored) -> str:
    people = scored["unit"] == "people"
    rows = [["all", *_counts(scored, scored)]]
    for who in ("minors", "adults"):
        band, found = scored[f"{who[:-1]}_band"], scored[who]
        rows.append([f"{who}, {band[0]}-{band[1]}", *_counts(scored, found)])
    told = (
        "Intervals resample whole people, because images of one person err together."
        if people
        else "People are not known. Every image counts as one person, so intervals are too narrow where a "
        "person has several images."
    )
    return f"{table(['who', *_counted(scored)], rows)}\n\n{told}"


def _counted(scored: Scored) -> list[str]:
    """Return the headers of counts: images, and people where they are known."""
    return ["images", "people"] if scored["unit"] == "people" else ["images"]


def _counts(scored: Scored, found: Scored) -> list[str]:
    return [str(found["images"]), str(found["units"])][: len(_counted(scored))]


def _headline(scored: Scored, row: Scored) -> str:
    minors, adults = ("{}-{}".format(*scored[key]) for key in ("minor_band", "adult_band"))
    short, challenge = row["severity"], row["challenge"]
    lines = [
        [f"FPR: minors ({minors}) taken for {challenge} or older", rate_text(row["fpr"])],
        [f"burden: adults ({adults}) taken for younger", rate_text(row["burden"])],
        [
            f"severity: minors taken for {challenge} or older (all below {scored['legal']})",
            str(short["images"]),
        ],
        ["severity: mean years below the legal age", number(short["mean"])],
        ["severity: 95th percentile, years", number(short["p95"])],
    ]
    return f"{table(['what', 'value'], lines)}\n\n**What n can show**: {escape(row['shows'])}"


def _challenge(scored: Scored) -> str:
    rows = [
        [
            str(row["challenge"]),
            rate_text(row["fpr"]),
            f"{row['fpr']['hits']} of {row['fpr']['images']}",
            rate_text(row["burden"]),
            number(row["severity"]["mean"], 1),
            number(row["severity"]["p95"], 1),
        ]
        for row in scored["challenge_ages"]
    ]
    header = ["challenge age", "FPR", "minors above", "burden", "severity, mean", "95th percentile"]
    return table(header, rows)


def _pass_rates(scored: Scored) -> str | None:
    rows = [[str(row["true_age"]), *_counts(scored, row), rate_text(row)] for row in scored["pass_rates"]]
    return table(["true age", *_counted(scored), "taken for it or older"], rows) if rows else None


def _errors(scored: Scored) -> str:
    errors = scored["errors"]
    adults = "{}-{}".format(*scored["adult_band"])
    cells = errors["mae_cells"]
    rows = [
        ["MAE over all images", mean_text(errors["mae"])],
        [f"MAE over cells, {adults} ({cells['cells']} cells of 10 images or more)", mean_text(cells)],
        ["bias (predicted less true)", mean_text(errors["bias"])],
    ]
    for k in (3, 5):
        rows.append([f"CS@{k}: within {k} years, all images", rate_text(errors[f"within_{k}"])])
        rows.append([f"CS@{k}, {adults}", rate_text(errors[f"within_{k}_adults"])])
    rows += [[f"MAE by decoder: {name}", number(value)] for name, value in errors["by_decoder"].items()]
    left = errors["without_sex"]
    told = f"\n\n{left} images of {adults} have no recorded sex and are in no cell." if left else ""
    return table(["what", "value"], rows) + told


def _cells(scored: Scored) -> str | None:
    rows = [
        [
            SEXES[cell["sex"]],
            str(cell["age"]),
            str(cell["images"]),
            number(cell["mae"]),
            number(cell["bias"]),
            "" if cell["averaged"] else "not averaged: below 10 images",
        ]
        for cell in scored["errors"]["cells"]
    ]
    return table(["sex", "age", "images", "MAE", "bias", "note"], rows) if rows else None


def _child_band(scored: Scored) -> str:
    names = {"tpr": "TPR, true age", "fpr_younger": "FPR, true age", "fpr_older": "FPR, true age"}
    rows = [
        [f"{told} {found['ages'][0]}-{found['ages'][1]}", str(found["images"]), rate_text(found)]
        for key, told in names.items()
        for found in [scored["child_band"][key]]
    ]
    return table(["taken for 13 to 16", "images", "rate"], rows)


def _fairness(scored: Scored) -> str | None:
    parts = []
    for label in scored["fairness"]:
        cells = [
            [
                escape(cell["value"]),
                *_counts(scored, cell),
                str(cell["minor_units"]),
                number(cell["mae"]),
                number(cell["bias"]),
                number(cell["fpr"], 1),
            ]
            for cell in label["cells"]
        ]
        unit = scored["unit"]
        header = ["label", *_counted(scored), f"{unit}, minors", "MAE", "bias", "FPR %"]
        parts.append(f"### Label in the column {escape(label['label'])}\n\n{table(header, cells)}")
        gaps = [
            [
                GAPS[key],
                number(found["raw"]),
                number(found["standardised"]),
                interval(found["interval"], 2),
                f"{number(found['shuffled'])} (95th percentile {number(found['shuffled_high'])})",
                p_text(found["p"]),
            ]
            for key, found in label["gaps"].items()
            if found is not None
        ]
        if gaps:
            header = ["gap", "as it is", "at equal ages", "interval", "shuffled labels", "p"]
            parts.append(table(header, gaps))
    if not parts:
        return None
    told = (
        f"Cells with fewer than {FEWEST_UNITS} minors ({scored['unit']}) show counts alone. "
        "A gap is the largest less the smallest value. At equal ages every cell has the ages "
        "of all cells together. A gap is never below zero, so compare it with what shuffled labels give. "
        "Labels are what the column holds, not what a person is."
    )
    return "\n\n".join([told, *parts])


def _robustness(found: Scored | None) -> str | None:
    if found is None:
        return None
    rows = [
        [
            row["change"],
            str(row["value"]),
            number(row["mae"]),
            signed(row["difference"]),
            interval(row["interval"], 2),
        ]
        for row in found["changes"]
    ]
    jitter = found["jitter"]
    told = (
        f"{found['images']} images, MAE {number(found['mae'])} years as they are. Jitter is the standard "
        f"deviation over nine positions 5 % apart: {number(jitter['mean'])} years on average, "
        f"{number(jitter['p95'])} at the 95th percentile (goal: {jitter['goal']:g})."
    )
    header = ["change", "value", "MAE", "change in MAE", "interval of the difference"]
    return f"{told}\n\n{table(header, rows, numbers_from=1)}"


def _cross(found: Scored | None) -> str | None:
    if found is None:
        return None
    trained = list(dict.fromkeys(cell["trained_on"] for cell in found["cells"]))
    tested = list(dict.fromkeys(cell["tested_on"] for cell in found["cells"]))
    place = {(cell["trained_on"], cell["tested_on"]): cell["mae"] for cell in found["cells"]}
    rows = [[escape(one), *(number(place.get((one, other))) for other in tested)] for one in trained]
    ratio = (
        f"Off the diagonal {number(found['off_diagonal'])} years, on it {number(found['diagonal'])}: "
        f"ratio {number(found['ratio'])}."
    )
    return f"{table(['trained on', *map(escape, tested)], rows)}\n\n{ratio}"


def _leak(found: Scored | None) -> str | None:
    if found is None:
        return None
    rows = [
        [
            escape(row["what"]),
            number(row["auc"], 1),
            number(row["auc_by_person"], 1),
            interval(row["interval"]),
            str(row["people"]),
            str(row["same_pairs"]),
        ]
        for row in found["rows"]
    ]
    header = ["outputs", "AUC, pairs", "AUC, people", "interval", "people", "pairs of one person"]
    told = (
        "How well the cosine of two outputs tells the same person from another, at ages five years or more "
        "apart. 50 % is chance."
    )
    return f"{told} {escape(found['note'])}\n\n{table(header, rows)}"

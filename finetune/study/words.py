"""What a study's numbers support, in words that claim no more than the paired tests do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.markdown import number
from finetune.paired_tests import least_wilcoxon_p

Summary = Mapping[str, Any]
FEW = 5  # pairs of seeds


def conclude(summary: Summary) -> list[str]:
    """Return the conclusion, sentence by sentence, about the first measure of a study's summary.

    A difference is claimed only where the Holm-adjusted paired t-test falls below 1 - level and the interval
    leaves zero out; where Wilcoxon's test says otherwise, it is told.
    """
    key, label = summary["measures"][0]["key"], _plain(summary["measures"][0]["label"])
    rows = [(row["title"], row["measures"][key]["difference"]) for row in summary["arms"]]
    compared = [(title, found) for title, found in rows if found is not None]
    baseline = next((row["title"] for row in summary["arms"] if row["name"] == summary["baseline"]), "CE")
    if not compared:
        return [f"No arm has a seed in common with {baseline}, so nothing can be concluded."]
    tested = [(title, found) for title, found in compared if found["n"] > 1]
    if not tested:
        return [
            f"Every comparison rests on a single seed, so nothing can be concluded about {label}: two "
            "trainings of one loss differ too. Run more seeds."
        ]
    alone = [title for title, found in compared if found["n"] == 1]
    sentences = [*_against_baseline(tested, baseline, label, summary["level"])]
    if alone:
        sentences.append(
            f"Nothing is concluded about {listed(alone)}: a single seed in common with {baseline}."
        )
    sentences += _about_controls(summary, key, label)
    sentences += _about_wilcoxon([found for _, found in tested], summary["level"])
    return [*sentences, _limits(summary, key)]


def _against_baseline(
    tested: Sequence[tuple[str, Mapping[str, Any]]], baseline: str, label: str, level: float
) -> Iterator[str]:
    for title, found in tested:
        if found["shown"]:
            way = "higher" if found["mean"] > 0 else "lower"
            yield f"{title} is {way} than {baseline} in {label}: {difference_words(found, level)}."
    unclear = [(title, found) for title, found in tested if not found["shown"]]
    if unclear:
        names = listed([title for title, _ in unclear])
        lead = "No difference" if len(unclear) == len(tested) else "No further difference"
        yield f"{lead} from {baseline} in {label} was shown for {names}."
        ends = [found["interval"] for _, found in unclear]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        yield (
            f"That does not show that there is none: the {_percent(level)} intervals of these differences "
            f"reach from {low:+.2f} to {high:+.2f} points."
        )
    fewest = min(found["n"] for _, found in tested)
    if fewest < FEW:
        yield (
            f"Some or all of these rest on {fewest} pairs of seeds: with so few, only large differences show."
        )


def _about_controls(summary: Summary, key: str, label: str) -> Iterator[str]:
    """Say for every CRL whether it differs from cross-entropy at a matched learning rate."""
    against = {row["name"]: row["measures"][key]["difference"] for row in summary["arms"]}
    for row in summary["controls"]:
        found, whole = row["measures"][key], against.get(row["arm"])
        if found is None or found["n"] < 2:
            continue
        size = difference_words(found, summary["level"])
        words = f"{row['title']} minus {row['control_title']} is {size}"
        if found["shown"] and found["mean"] > 0:
            yield f"{words}: a longer step alone did not reach it."
        elif found["shown"]:
            yield f"{words}: the same mean step, given to all images alike, scored higher."
        elif whole is not None and whole["shown"]:
            yield (
                f"{words}: no difference in {label} between them was shown, so the loss's difference from "
                "cross-entropy may be one of step size."
            )
        else:
            yield f"{words}: no difference in {label} between them was shown."


def _about_wilcoxon(found: Sequence[Mapping[str, Any]], level: float) -> Iterator[str]:
    limit = round(1 - level, 9)
    pairs = max(row["n"] for row in found)
    least = least_wilcoxon_p(pairs)
    if least >= limit:
        yield (
            f"Wilcoxon's signed-rank test cannot fall below p = {p_text(least)} with {pairs} pairs, so it "
            f"can show nothing at {p_text(limit)}, whatever the scores."
        )
        return
    least_corrected = least * len(found)
    if least_corrected >= limit:
        yield (
            f"Wilcoxon's signed-rank test cannot fall below p = {p_text(least)} with {pairs} pairs, and "
            f"Holm's correction for {len(found)} comparisons can lift that above {p_text(limit)}: its "
            "silence means little."
        )
    apart = sum(row["shown"] and not _says(row["p_wilcoxon_holm"], limit) for row in found)
    other = sum(not row["shown"] and _says(row["p_wilcoxon_holm"], limit) for row in found)
    if apart:
        yield f"Of the differences shown by the t-test, {apart} {_are(apart)} not shown by Wilcoxon's test."
    if other:
        yield f"Wilcoxon's test would show {other} that {_are(other)} not shown by the t-test."


def _limits(summary: Summary, key: str) -> str:
    counts = {row["measures"][key]["n"] for row in summary["arms"]} - {0}
    seeds = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return (
        f"This is about {seeds} training seeds per arm, this network, this budget and these test images, and "
        "about no others."
    )


def difference_words(found: Mapping[str, Any], level: float) -> str:
    """Return a difference with its interval and tests in words.

    >>> difference_words({"mean": 0.4, "interval": [0.1, 0.7], "n": 10, "p_t_holm": 0.003}, 0.95)
    '+0.40 points (95 % interval +0.10 to +0.70 over 10 paired seeds, Holm-adjusted paired t-test p = 0.003)'
    """
    ends = found["interval"]
    reach = f"{_percent(level)} interval {ends[0]:+.2f} to {ends[1]:+.2f} over {found['n']} paired seeds"
    p = found["p_t_holm"]
    test = "all seeds differ by the same, so the t-test has no p"
    if p is not None:
        test = f"Holm-adjusted paired t-test p {p_text(p, equals=True)}"
    return f"{found['mean']:+.2f} points ({reach}, {test})"


def p_text(p: float | None, *, equals: bool = False) -> str:
    """Return a p-value as it is printed, with the sign before it where a sentence needs one.

    >>> p_text(0.0123), p_text(0.00001), p_text(0.5, equals=True), p_text(None)
    ('0.0123', '<0.0001', '= 0.5', 'n/a')
    """
    if p is None:
        return number(None)
    if p < 1e-4:
        return "< 0.0001" if equals else "<0.0001"
    return f"= {p:.3g}" if equals else f"{p:.3g}"


def listed(names: Sequence[str]) -> str:
    """Return names as an enumeration; semicolons part names that hold commas.

    >>> listed(["a", "b", "c"]), listed(["CRL (alpha 1, beta 1)", "NLLR"])
    ('a, b and c', 'CRL (alpha 1, beta 1) and NLLR')
    """
    if len(names) < 2:
        return "".join(names)
    mark = "; " if any("," in name for name in names) and len(names) > 2 else ", "
    return f"{mark.join(names[:-1])} and {names[-1]}"


def _plain(label: str) -> str:
    return label.removesuffix("(%)").strip()


def _percent(level: float) -> str:
    return f"{100 * level:g} %"


def _says(p: float | None, limit: float) -> bool:
    return p is not None and p < limit


def _are(count: int) -> str:
    return "is" if count == 1 else "are"

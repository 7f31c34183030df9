"""What a study's numbers support, in words that claim no more than the paired tests do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import Cell
from finetune.figures.markdown import number, p_text, points, signed
from finetune.metrics.intervals import alike_words
from finetune.metrics.learning import ONE_CLASS, unbounded_loss
from finetune.metrics.paired_tests import least_wilcoxon_p

Summary = Mapping[str, Any]
FEW = 5  # pairs of seeds
REMEDY = "Train longer, at another learning rate, or from pretrained weights."
FACTORS = {"mean": "mean factor", "ratio": "ratio of sums"}  # by `Arm.matches_by`


def conclude(summary: Summary, *, learned: bool = True) -> list[str]:
    """Return the conclusion, sentence by sentence, about the first measure of a study's summary.

    Where no arm has `learned` (`at_chance`), no arm is called higher or lower than another.

    A difference is claimed only where the Holm-adjusted paired t-test falls below 1 - level and the interval
    excludes zero; where Wilcoxon's test disagrees, that is reported.
    """
    key, label = summary["measures"][0]["key"], _plain(summary["measures"][0]["label"])
    rows = [(row["title"], row["measures"][key]["difference"]) for row in summary["arms"]]
    compared = [(title, found) for title, found in rows if found is not None]
    baseline = next((row["title"] for row in summary["arms"] if row["name"] == summary["baseline"]), "CE")
    if [row["name"] for row in summary["arms"]] == [summary["baseline"]]:
        only = f"Only cross-entropy ({baseline}) was trained, so nothing is compared."
        return [only, *_about_divergence(summary, label)]
    if summary["baseline"] not in {row["name"] for row in summary["arms"]}:
        left_out = "Cross-entropy was left out, so nothing is compared with it."
        return [left_out, *_about_divergence(summary, label)]
    if not compared:
        return [
            *_about_divergence(summary, label),
            f"No arm has a seed in common with {baseline}, so nothing can be concluded.",
        ]
    tested = [(title, found) for title, found in compared if found["n"] > 1]
    if not tested:
        return [
            *_about_divergence(summary, label),
            f"Every comparison rests on a single seed, so nothing can be concluded about {label}: two "
            "trainings of one loss differ too. Run more seeds.",
        ]
    if not learned:
        nothing = "No arm is called higher or lower than another: all are about as good as guessing."
        return [nothing, *_about_divergence(summary, label)]
    alone = [title for title, found in compared if found["n"] == 1]
    sentences = [*_against_baseline(tested, baseline, label, summary["level"])]
    if alone:
        sentences.append(
            f"Nothing is concluded about {listed(alone)}: a single seed in common with {baseline}."
        )
    sentences += _about_controls(summary, key, label)
    sentences += _about_wilcoxon([found for _, found in tested], summary["family"], summary["level"])
    sentences += _about_divergence(summary, label)
    return [*sentences, *_about_fewer_seeds(summary, key), _limits(summary, key)]


def at_chance(cells: Sequence[Cell], guessing: float | None, remedy: str = REMEDY) -> str:
    """Return a caution where no arm's mean beats the majority-class baseline by a point; else empty.

    Args:
        cells: finished ones; those without the score "accuracy", in per cent, say nothing of guessing.
        guessing: the accuracy of the majority-class baseline; None where it is not known.
        remedy: a sentence on what to do.
    """
    if guessing is None or not cells or any("accuracy" not in cell.scores for cell in cells):
        return ""
    if guessing >= 100:
        return f"Take care: {ONE_CLASS}."
    scores: dict[str, list[float]] = {}
    for cell in cells:
        scores.setdefault(cell.arm, []).append(float(cell.scores["accuracy"] or 0.0))
    best = max(sum(values) / len(values) for values in scores.values())
    if best > guessing + 1:
        return ""
    return (
        f"No arm does better than the majority-class baseline ({best:.2f} against {guessing:.2f} %): "
        f"nothing was learned, so nothing can be compared. {remedy}"
    )


def without_bound(cells: Sequence[Cell], arms: Sequence[Arm]) -> list[str]:
    """Return a sentence per arm whose training loss fell without bound while its accuracy fell."""
    sentences = []
    for arm in arms:
        own = [cell for cell in cells if cell.arm == arm.name]
        found = sum(unbounded_loss(cell.history) is not None for cell in own)
        if found:
            sentences.append(
                f"{arm.title}: in {found} of {len(own)} trainings the loss fell without bound while the "
                "accuracy fell. A loss without a lowest value went on growing logits and nothing else."
            )
    return sentences


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
        ends = [found["interval"] for _, found in unclear if not all_alike(found)]
        reach = ""
        if ends:
            low, high = signed(min(low for low, _ in ends)), signed(max(high for _, high in ends))
            reach = (
                f": the {_percent(level)} intervals of these differences reach from {low} to {high} points"
            )
        yield f"That does not show that there is none{reach}."
        for title, found in unclear:
            if all_alike(found):
                yield f"{title} minus {baseline} is {difference_words(found, level)}."
    fewest = min(found["n"] for _, found in tested)
    if fewest < FEW:
        yield (
            f"Some or all of these rest on {fewest} pairs of seeds: with so few, only large differences show."
        )


def _about_divergence(summary: Summary, label: str) -> Iterator[str]:
    """Say of which arms trainings diverged or have no score."""
    for row in summary["arms"]:
        if row["diverged"]:
            told = f"{row['diverged']} of {row['n']} trainings of {row['title']}"
            yield f"{told} diverged; what they scored counts as it is."
    for row in summary["arms"]:
        if row["unscored"]:
            told = f"{row['unscored']} of {row['n']} trainings of {row['title']}"
            yield f"{told} ended without a finite {label}: means and tests of this arm are about the others."


def _about_fewer_seeds(summary: Summary, key: str) -> Iterator[str]:
    """Name the arms with fewer scores than the most."""
    counts = {row["title"]: row["measures"][key]["n"] for row in summary["arms"]}
    most = max(counts.values())
    fewer = [f"{title} with {n or 'none'}" for title, n in counts.items() if n < most]
    if fewer:
        yield f"Not every arm has {most} seeds with a score: {listed(fewer)}."


def _about_controls(summary: Summary, key: str, label: str) -> Iterator[str]:
    """Say for every CRL whether it differs from cross-entropy at a matched learning rate."""
    rows = {row["name"]: row for row in summary["arms"]}
    for arm in dict.fromkeys(row["arm"] for row in summary["controls"]):
        controls = [row for row in summary["controls"] if row["arm"] == arm]
        tested = [row for row in controls if row["measures"][key] and row["measures"][key]["n"] > 1]
        whole, open_still = _shown_sign(rows[arm]["measures"][key]["difference"]), False
        for row in tested:
            found = row["measures"][key]
            rate = f"{rows[row['control']]['lr_factor']:.3g} times as high ({FACTORS[row['matches_by']]})"
            size = difference_words(found, summary["level"])
            verdict = _control_verdict(whole, _shown_sign(found), label)
            yield f"{row['title']} minus cross-entropy at a learning rate {rate} is {size}: {verdict}."
            open_still |= whole != 0 and _shown_sign(found) != whole
        if open_still:
            yield _may_be_the_rate(tested[0]["title"], adaptive=summary["adaptive"])


def _control_verdict(whole: int, against: int, label: str) -> str:
    """Return what a control says of its CRL.

    `whole` is the sign of what was shown of CRL minus cross-entropy, `against` that of CRL minus the control;
    0 where no difference was shown.
    """
    if not against:
        return f"no difference in {label} between them was shown"
    way = "lower" if against > 0 else "higher"
    if not whole:
        itself = "the loss itself was not shown to differ from cross-entropy at the study's learning rate"
        return f"cross-entropy at that learning rate scored {way}; {itself}"
    if whole == against:
        return f"cross-entropy at that learning rate did not {'reach it' if whole > 0 else 'fall as low'}"
    return f"cross-entropy at that learning rate scored {way} still"


def _may_be_the_rate(title: str, *, adaptive: bool) -> str:
    """Return the doubt that a control leaves which did not stay behind its CRL."""
    if adaptive:
        return (
            f"So a learning rate other than the study's may change cross-entropy as much as {title} does. "
            "(The optimiser divides by the size of the gradient: a constant factor on the loss makes no "
            "longer steps.)"
        )
    return f"So the difference of {title} from cross-entropy may be one of step size."


def _shown_sign(found: Mapping[str, Any] | None) -> int:
    if found is None or not found["shown"]:
        return 0
    return 1 if found["mean"] > 0 else -1


def _about_wilcoxon(found: Sequence[Mapping[str, Any]], family: int, level: float) -> Iterator[str]:
    limit = round(1 - level, 9)
    pairs = max(row["n"] for row in found)
    least = least_wilcoxon_p(pairs)
    corrected = min(1.0, least * family)
    lead = f"Wilcoxon's signed-rank test cannot fall below p = {p_text(least)} with {pairs} pairs"
    nothing = f"it can show nothing at {p_text(limit)}, whatever the scores."
    if least >= limit:
        yield f"{lead}, so {nothing}"
        return
    if corrected >= limit:
        told = f"lifts that to {p_text(corrected)} at the least"
        yield f"{lead}, and Holm's correction for {family} comparisons {told}, so {nothing}"
        return
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
    seeds = f"{found['n']} paired seeds"
    if all_alike(found):
        return f"{signed(found['mean'])} points ({interval_words(found)}, {seeds}; the t-test has no p)"
    reach = f"{_percent(level)} interval {interval_words(found)} over {seeds}"
    test = f"Holm-adjusted paired t-test p {p_text(found['p_t_holm'], equals=True)}"
    return f"{signed(found['mean'])} points ({reach}, {test})"


def interval_words(found: Mapping[str, Any] | None) -> str:
    """Return the interval of a paired difference, or why it has none.

    >>> interval_words({"interval": [-0.004, 0.7], "n": 3, "p_t_holm": 0.2})
    '-0.004 to +0.70'
    >>> interval_words({"mean": 1.0, "interval": [1.0, 1.0], "n": 3, "p_t_holm": None}), interval_words(None)
    ('no interval: all seeds differ by the same', 'n/a')
    >>> interval_words({"mean": 0.0, "interval": [0.0, 0.0], "n": 3, "p_t_holm": None})
    'no interval: all seeds are equal'
    """
    if found is None or found["interval"] is None:
        return number(None)
    if all_alike(found):
        return f"no interval: all seeds {alike_words(found['mean'])}"
    return points(found["interval"])


def all_alike(found: Mapping[str, Any]) -> bool:
    """Return whether all of several seeds differ by the same, so that there is neither a spread nor a p."""
    return found["n"] > 1 and found["p_t_holm"] is None


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

"""What a paired comparison shows, in words that claim no more than its tests do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.measures import Measure
from finetune.figures.markdown import p_text, points, signed
from finetune.metrics.intervals import LEVEL, alike_words, contains_zero
from finetune.metrics.learning import ONE_CLASS

TESTED_AGAIN = (
    "Images are tested in several splits and count each time; the intervals take the splits for independent, "
    "so they are too narrow."
)


def conclude(comparison: Mapping[str, Any], measures: Sequence[Measure], headline: Measure) -> str:
    """Return, in plain words, what the data support about each of these measures, and the limits of it.

    McNemar's test, and what guessing scores, are about the task's `headline`, where the classes have it.

    A difference is claimed only where no test of the comparison leaves room for none: the bootstrap over the
    task's units, over more cautious ones where there are some, Student's interval over seeds for several runs
    a side, and, where single images are resampled, McNemar's test for one run a side.
    """
    measures = [measure for measure in measures if comparison.get(measure.key)]
    caution = guessing(comparison, headline) if headline in measures else ""
    low = bool(caution) and comparison["majority"] < 100
    tests = [comparison.get("mcnemar") if measure is headline else None for measure in measures]
    sentences = [
        _sentence(comparison, measure, test, low=low) for measure, test in zip(measures, tests, strict=True)
    ]
    sentences = [caution, *sentences] if caution else sentences
    if len(comparison["seeds"]) < 2:
        sentences.append(
            f"One seed a side: the tests are about other test {comparison['unit']}s, not of other training "
            "seeds, which move the accuracy too."
        )
    if any((comparison[measure.key] or {}).get("pooled", 0) is None for measure in measures):
        sentences.append(TESTED_AGAIN)
    sentences += [f"{note[0].upper()}{note[1:]}." for note in comparison["notes"]]
    return " ".join(sentences)


def guessing(comparison: Mapping[str, Any], measure: Measure) -> str:
    """Return that neither side does better than guessing the most frequent class; empty where one does."""
    found = comparison[measure.key]
    whole = found.get("pooled") or found
    best, majority = max(whole["a"], whole["b"]), comparison["majority"]
    if majority >= 100:
        return f"Take care: {ONE_CLASS}."
    if best > majority:
        return ""
    return (
        f"Neither does better than always predicting the most frequent class ({best:.2f} against "
        f"{majority:.2f} %): nothing useful was learned, and no difference says which is better."
    )


def _sentence(
    comparison: Mapping[str, Any], measure: Measure, mcnemar: Mapping[str, Any] | None, *, low: bool
) -> str:
    (first, second), found = comparison["names"], comparison[measure.key]
    size = f"{signed(found['difference'])} {measure.difference_unit} ({_tested(found, comparison['unit'])})"
    where = f"{comparison['n']:,} images"
    if "subjects" in comparison:
        where += f" of {comparison['subjects']:,} subjects"
    doubts = _doubts(comparison, measure, mcnemar)
    if doubts:
        return (
            f"No difference in {measure.label} was shown: {second} minus {first} is {size} on {where}; "
            f"{' and '.join(doubts)}."
        )
    direction = "higher" if found["difference"] > 0 else "lower"
    if low:
        direction += ", below the majority-class baseline,"
    claim = f"{second} is {direction} than {first} in {measure.label} by {size} on {where}"
    return f"{claim}{_support(comparison, measure, mcnemar)}."


def _tested(found: Mapping[str, Any], unit: str) -> str:
    p = "no p" if found["p"] is None else f"p {p_text(found['p'], equals=True)}"
    return f"95 % {interval_name(found)} over {unit}s {points(found['interval'])}, {p}"


def interval_name(found: Mapping[str, Any]) -> str:
    """Return "interval", or "Wilson interval" where resampling never moves the difference."""
    return f"{found['method']} interval" if "method" in found else "interval"


def _doubts(comparison: Mapping[str, Any], measure: Measure, mcnemar: Mapping[str, Any] | None) -> list[str]:
    """Return which tests leave room for no difference, in words."""
    unit, found = comparison["unit"], comparison[measure.key]
    doubts = []
    for over, tested in [(f"{unit}s", found), *_further(found)]:
        why = f" ({tested['reason']})" if "reason" in tested else ""
        if contains_zero(tested["interval"]):
            doubts.append(f"the {interval_name(tested)} over {over} contains zero{why}")
        elif tested["p"] is None:
            doubts.append(f"there is no p over {over}{why}")
        elif tested["p"] >= LEVEL:
            doubts.append(f"p over {over} is {p_text(tested['p'])}")
    if mcnemar and unit == "image" and mcnemar["p"] >= LEVEL:
        doubts.append(f"McNemar's exact p is {p_text(mcnemar['p'])}")
    seeds = comparison.get("seed_difference", {}).get(measure.key)
    if seeds and seeds["interval"] is None:
        doubts.append(
            f"all {seeds['n']} seeds {alike_words(seeds['mean'])}, so there is no interval over seeds"
        )
    elif seeds and contains_zero(seeds["interval"]):
        ends = points(seeds["interval"])
        doubts.append(f"the interval over {seeds['n']} seeds, {ends}, contains zero")
    return doubts


def _further(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tests over more cautious units, by how many units there are."""
    further = [(key.removeprefix("by_"), test) for key, test in found.items() if key.startswith("by_")]
    return [(f"{test['clusters']:,} {unit}s", test) for unit, test in further if test]


def _support(comparison: Mapping[str, Any], measure: Measure, mcnemar: Mapping[str, Any] | None) -> str:
    """Return what else the claim stands on."""
    seeds = comparison.get("seed_difference", {}).get(measure.key)
    if seeds:
        interval = f"the 95 % interval is {points(seeds['interval'])}"
        return f"; over {seeds['n']} seeds {interval} (sd {seeds['sd']:.2f})"
    if mcnemar and comparison["unit"] == "image":
        return f"; McNemar's exact p is {p_text(mcnemar['p'])}"
    return ""

"""What a paired comparison shows, in words that claim no more than its tests do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.measures import Measure

LEVEL = 0.05  # of McNemar's test; the intervals are of 1 - LEVEL


def conclude(comparison: Mapping[str, Any], measures: Sequence[Measure]) -> str:
    """Return, in plain words, what the data support about each of these measures, and the limits of it.

    A difference is claimed only where no test of the comparison leaves room for none: the bootstrap over the
    task's units, over more cautious ones where there are some, Student's interval over seeds for several runs
    a side, and, where single images are resampled, McNemar's test for one run a side.
    """
    sentences = [_sentence(comparison, measure) for measure in measures]
    if len(comparison["seeds"]) < 2:
        sentences.append(
            f"One seed a side: the tests are about other test {comparison['unit']}s, not of other training "
            "seeds, which move the accuracy too."
        )
    sentences += [f"{note[0].upper()}{note[1:]}." for note in comparison["notes"]]
    return " ".join(sentences)


def _sentence(comparison: Mapping[str, Any], measure: Measure) -> str:
    (first, second), found = comparison["names"], comparison[measure.key]
    size = f"{found['difference']:+.2f} points ({_tested(found, comparison['unit'])})"
    where = f"{comparison['n']:,} images"
    if "subjects" in comparison:
        where += f" of {comparison['subjects']:,} subjects"
    doubts = _doubts(comparison, measure)
    if doubts:
        return (
            f"No difference in {measure.label} was shown: {second} minus {first} is {size} on {where}; "
            f"{' and '.join(doubts)}."
        )
    direction = "higher" if found["difference"] > 0 else "lower"
    claim = f"{second} is {direction} than {first} in {measure.label} by {size} on {where}"
    return f"{claim}{_support(comparison, measure)}."


def _tested(found: Mapping[str, Any], unit: str) -> str:
    if found["interval"] is None:
        return f"no interval over {unit}s"
    low, high = found["interval"]
    return f"95 % interval over {unit}s {low:+.2f} to {high:+.2f}, p = {found['p']:.2g}"


def _doubts(comparison: Mapping[str, Any], measure: Measure) -> list[str]:
    """Return which tests leave room for no difference, in words."""
    unit, found = comparison["unit"], comparison[measure.key]
    doubts = []
    if found["interval"] is None:
        doubts.append(f"there is no interval over {unit}s, for {found['reason']}")
    elif contains_zero(found["interval"]):
        doubts.append(f"the interval over {unit}s contains zero")
    for name, further in _further(found):
        over = f"{further['clusters']:,} {name}s"
        if further["interval"] is None:
            doubts.append(f"there is no interval over {over}, for {further['reason']}")
        elif contains_zero(further["interval"]):
            doubts.append(f"the interval over {over} contains zero")
    test = comparison.get("mcnemar")
    if test and unit == "image" and test["p"] >= LEVEL:
        doubts.append(f"McNemar's exact p is {test['p']:.2g}")
    seeds = comparison.get("seed_difference", {}).get(measure.key)
    if seeds and seeds["interval"] is None:
        doubts.append(f"all {seeds['n']} seeds differ by the same, so there is no interval over seeds")
    elif seeds and contains_zero(seeds["interval"]):
        low, high = seeds["interval"]
        doubts.append(f"the interval over {seeds['n']} seeds, {low:+.2f} to {high:+.2f}, contains zero")
    return doubts


def _further(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tests over more cautious units, by the unit's name."""
    return [(key.removeprefix("by_"), test) for key, test in found.items() if key.startswith("by_") and test]


def _support(comparison: Mapping[str, Any], measure: Measure) -> str:
    """Return what else the claim stands on."""
    seeds = comparison.get("seed_difference", {}).get(measure.key)
    if seeds:
        low, high = seeds["interval"]
        interval = f"the 95 % interval is {low:+.2f} to {high:+.2f}"
        return f"; over {seeds['n']} seeds {interval} (sd {seeds['sd']:.2f})"
    if comparison["unit"] == "image":
        return f"; McNemar's exact p is {comparison['mcnemar']['p']:.2g}"
    return ""


def contains_zero(interval: Sequence[float]) -> bool:
    """Return whether an interval [low, high] contains zero."""
    return bool(interval[0] <= 0 <= interval[1])

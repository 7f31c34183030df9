"""What a paired comparison shows, in words that claim no more than its tests do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05  # of McNemar's test; the intervals are of 1 - LEVEL


def conclude(comparison: Mapping[str, Any]) -> str:
    """Return, in plain words, what the data support about top-1 accuracy, and the limits of it.

    A difference is claimed only where no test of the comparison leaves room for none: the bootstrap over
    images, and McNemar's test for one run a side or Student's interval over seeds for several.
    """
    sentences = [_claim(comparison)]
    if len(comparison["seeds"]) < 2:
        sentences.append(
            "One seed a side: the tests tell of other test images, not of other training seeds, which move "
            "the accuracy too."
        )
    sentences += [f"{note[0].upper()}{note[1:]}." for note in comparison["notes"]]
    return " ".join(sentences)


def _claim(comparison: Mapping[str, Any]) -> str:
    (first, second), found = comparison["names"], comparison["top1"]
    size = f"{found['difference']:+.2f} points ({_over_images(found)})"
    where = f"{comparison['n']:,} images"
    doubts = _doubts(comparison)
    if doubts:
        return (
            f"No difference in top-1 accuracy was shown: {second} minus {first} is {size} on {where}; "
            f"{' and '.join(doubts)}."
        )
    direction = "higher" if found["difference"] > 0 else "lower"
    claim = f"{second} is {direction} than {first} in top-1 accuracy by {size} on {where}"
    return f"{claim}; {_support(comparison)}."


def _over_images(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return "no interval over images"
    low, high = found["interval"]
    return f"95 % interval over images {low:+.2f} to {high:+.2f}"


def _doubts(comparison: Mapping[str, Any]) -> list[str]:
    """Return which tests leave room for no difference, in words."""
    doubts, found = [], comparison["top1"]
    if found["interval"] is None:
        doubts.append(f"there is no interval over images, for {found['reason']}")
    elif _holds_zero(found["interval"]):
        doubts.append("the interval over images holds zero")
    test = comparison.get("mcnemar")
    if test and test["p"] >= LEVEL:
        doubts.append(f"McNemar's exact p is {test['p']:.2g}")
    seeds = comparison.get("seed_difference")
    if seeds and seeds["interval"] is None:
        doubts.append(f"all {seeds['n']} seeds differ by the same, so there is no interval over seeds")
    elif seeds and _holds_zero(seeds["interval"]):
        low, high = seeds["interval"]
        doubts.append(f"the interval over {seeds['n']} seeds, {low:+.2f} to {high:+.2f}, holds zero")
    return doubts


def _support(comparison: Mapping[str, Any]) -> str:
    if "seed_difference" in comparison:
        seeds = comparison["seed_difference"]
        low, high = seeds["interval"]
        return (
            f"over {seeds['n']} seeds the 95 % interval is {low:+.2f} to {high:+.2f} (sd {seeds['sd']:.2f})"
        )
    return f"McNemar's exact p is {comparison['mcnemar']['p']:.2g}"


def _holds_zero(interval: Sequence[float]) -> bool:
    return bool(interval[0] <= 0 <= interval[1])

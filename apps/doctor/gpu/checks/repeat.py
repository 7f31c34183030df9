"""Check 6: the same training twice, in two processes, ends in the same weights to the last bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.training import task_for

REPAIR = "a run of this kind cannot be repeated or resumed exactly on this GPU; send gpu-check.json"
ALARMED = "torch has no deterministic way for it here; results may differ in the last bits"

Answers = Mapping[str, Mapping[str, Any]]


def run_twice(setup: Setup) -> tuple[Answers, Answers]:
    """Return what each of two processes at the same time found: hashes and warnings of every case."""
    sizes = setup.sizes
    for side in {sizes.side, sizes.odd_side}:
        task_for(setup.folder, sizes, side)  # drawn and decoded once, before both want it
    setup.card.release()
    files = [setup.folder / f"repeat{number}.json" for number in range(2)]
    setup.finish([setup.start("repeat", str(setup.folder), str(file)) for file in files])
    one, other = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return one, other


def check_repeat(setup: Setup) -> Outcome:
    """Return which trainings differ between two processes, and which operations warned."""
    found = Findings()
    one, other = run_twice(setup)
    for name, first in one.items():
        second = other.get(name, {})
        same = first["hash"] == second.get("hash")
        warned = sorted({*first["warnings"], *second.get("warnings", ())})
        found.numbers[name] = {"same": same, "hash": first["hash"][:16], "warnings": warned}
        found.require(same, f"{name}: two processes end in different weights", REPAIR)
        found.require(not warned, f"{name}: {'; '.join(warned)}", ALARMED, "note")
    found.require(len(one) > 0, "no training was compared", REPAIR)
    if not found.faults:
        found.add(f"{len(one)} trainings of {setup.sizes.steps} steps end in equal weights in two processes")
    return found.outcome()

"""Check 7: a run that is killed in the middle and goes on ends in the unbroken run's weights."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work import general
from apps.doctor.gpu.work.training import task_for
from finetune.errors import ResourceError
from finetune.training.checkpoint import CheckpointFolder

SAVES = 3  # checkpoints that are written before the kill: it then lies inside an epoch
LOOK_SECONDS = 0.002
REPAIR = (
    "do not trust resumed runs on this GPU: start such a run again from the beginning; send gpu-check.json"
)

Files = Callable[[Path], Sequence[Path]]


def check_resume(setup: Setup) -> Outcome:
    """Return whether killed runs, of fine-tuning and of the general engine, end where unbroken ones do."""
    sizes, folder, found = setup.sizes, setup.folder, Findings()
    task_for(folder, sizes, sizes.runs_side, val=sizes.images // 4)
    setup.card.release()
    saved: dict[str, Files] = {
        "fit": lambda run: [run / "checkpoints" / "last.ckpt"],
        "general": general.checkpoints,
    }
    whole = {work: folder / f"{work}-whole" for work in saved}
    cut = {work: folder / f"{work}-cut" for work in saved}
    unbroken = [setup.start(work, str(folder), str(run)) for work, run in whole.items()]
    for work, files in saved.items():
        kill_inside(setup.start(work, str(folder), str(cut[work])), cut[work], files, setup)
    where = {"fit": _place(cut["fit"])}
    again = [setup.start(work, str(folder), str(run)) for work, run in cut.items()]
    setup.finish([*unbroken, *again])
    for work, title in (("fit", "fine-tuning (2 workers, average, mixup)"), ("general", "a general run")):
        one, other = ((run / "hash").read_text(encoding="ascii") for run in (whole[work], cut[work]))
        found.numbers[work] = {"same": one == other, "hash": one[:16], "killed": where.get(work, "")}
        found.require(
            one == other, f"{title}: the resumed run ends in other weights than the unbroken one", REPAIR
        )
        if one == other:
            found.add(f"{title}: killed, resumed, equal")
    return found.outcome()


def kill_inside(process: subprocess.Popen[str], run: Path, files: Files, setup: Setup) -> None:
    """Kill a process once it has written some checkpoints; ResourceError where it ended before."""
    seen: set[tuple[int, int]] = set()
    end = time.monotonic() + setup.seconds
    while len(seen) < SAVES:
        if process.poll() is not None:
            raise ResourceError(f"a run ended before it could be killed: {setup.last_words(process)}")
        if time.monotonic() > end:
            raise ResourceError(f"a run wrote no {SAVES} checkpoints within {setup.seconds:.0f} s")
        for file in files(run):
            with suppress(OSError):
                told = file.stat()
                seen.add((told.st_ino, told.st_mtime_ns))
        time.sleep(LOOK_SECONDS)
    process.kill()
    process.wait()


def _place(run: Path) -> str:
    """Return where a killed run's newest checkpoint stands."""
    saved = CheckpointFolder(run / "checkpoints").load_latest()
    return "" if saved is None else f"epoch {saved[0]['epoch'] + 1}, step {saved[0]['step']}"

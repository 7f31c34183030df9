"""`crl doctor --gpu`: what a GPU computes and how fast, told check by check, every number in a file."""

from __future__ import annotations

import getpass
import platform
import socket
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from apps.config import DoctorConfig
from apps.doctor.gpu.card import Card, find_card
from apps.doctor.gpu.check import Check
from apps.doctor.gpu.outcome import SEVERITY, Outcome, error_text, impersonal
from apps.doctor.gpu.setup import FULL, Setup, Sizes
from apps.doctor.run import Finding, told
from apps.runtime.installed import installed_version
from finetune.cli.console import say, silently
from finetune.cli.machine import core_count
from finetune.errors import ResourceError, UsageError
from finetune.figures.canvas import count_text
from finetune.runs.files import check_writable
from finetune.runs.folder import versions, write_json
from finetune.seeding import torch_left_as_it_was

SCHEMA = 1
FILE = "gpu-check.json"
MOST_SECONDS = 300.0
NO_MEMORY = "end other programs on the GPU (nvidia-smi lists them), or choose another: --gpu cuda:1"
LOST = "the GPU answers no more in this process: run crl doctor --gpu again; does nvidia-smi list the GPU?"
UNKNOWN = "send gpu-check.json"


@dataclass(frozen=True)
class Result:
    """A check's outcome, as the file keeps it; `seconds` is what it took."""

    number: int
    name: str
    status: str
    found: str
    repair: str
    seconds: float
    numbers: Mapping[str, Any]


def run_gpu_doctor(config: DoctorConfig) -> dict[str, Any]:
    """Try the GPU, say what was found, write every number to a file, and return it.

    Raises ResourceError where there is no GPU that can be used, and at the end where something is wrong; the
    latter carries the findings as `result`. An interrupt writes what was found so far, and goes on as one.
    """
    file = Path(config.out or FILE)
    if file.is_dir():
        raise UsageError(f"--out is a file, {file} is a folder: give {file / FILE}")
    check_writable(file.parent)
    card = find_card("cuda" if config.gpu is True else str(config.gpu))
    from apps.doctor.gpu.table import CHECKS  # all that is tried, which takes seconds to import

    file.parent.mkdir(parents=True, exist_ok=True)
    return look_over(card, file, CHECKS, quick=config.quick)


def look_over(
    card: Card,
    file: Path,
    checks: Sequence[Check],
    *,
    quick: bool = False,
    sizes: Sizes = FULL,
) -> dict[str, Any]:
    """Do the checks one after the other, none of which stops the others; see `run_gpu_doctor`."""
    chosen = [check for check in checks if check.quick or not quick]
    left_out = [str(check.number) for check in checks if check not in chosen]
    say(f"{card.name} ({card.device}): {count_text(len(chosen), 'check')}, about {_minutes(chosen)}")
    say("random weights and drawn images; nothing is downloaded or sent")
    if left_out:
        say(f"--quick leaves out the checks {', '.join(left_out)}")
    begin = time.monotonic()
    results: list[Result] = []
    finished = False
    with tempfile.TemporaryDirectory(prefix="crl-gpu-", ignore_cleanup_errors=True) as folder:
        setup = Setup(card, Path(folder), sizes, deadline=begin + MOST_SECONDS)
        try:
            with torch_left_as_it_was():
                setup.precision()  # before the GPU is used: some of its libraries read their settings once
                for place, check in enumerate(chosen):
                    results.append(run_check(check, setup))
                    say(_line(results[-1], chosen[place + 1 :]))
            finished = True
        finally:
            setup.end()
            content = report(card, results, time.monotonic() - begin, quick=quick, finished=finished)
            write_json(file, content)
            what = "all" if finished else "what was found so far,"
            say(f"{what} in {content['seconds']:.0f} s; written to {file}")
    return _verdict(results, content)


def run_check(check: Check, setup: Setup) -> Result:
    """Return what a check found; whatever it raises, but for an interrupt, is found wrong."""
    start = time.monotonic()
    try:
        with silently(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those that matter are collected by the checks themselves
            outcome = check.run(setup)
    except Exception as error:  # no check stops the others
        outcome = Outcome("wrong", error_text(error), {}, repair_of(error))
    _give_back(setup)
    taken = round(time.monotonic() - start, 2)
    return Result(
        check.number, check.name, outcome.status, outcome.found, outcome.repair, taken, dict(outcome.numbers)
    )


def repair_of(error: Exception) -> str:
    """Return what to do after a check broke down."""
    if isinstance(error, torch.OutOfMemoryError):
        return NO_MEMORY
    return LOST if "CUDA error" in str(error) else UNKNOWN


def report(
    card: Card, results: Sequence[Result], seconds: float, *, quick: bool, finished: bool
) -> dict[str, Any]:
    """Return the file's content: versions, device, every number; no path, no name of user or machine."""
    worst = max((result.status for result in results), key=_severity, default="ok")
    device: Mapping[str, Any] = {}
    with suppress(RuntimeError):  # a GPU that answers no more
        device = card.facts()
    content = {
        "schema": SCHEMA,
        "finished": finished,
        "quick": quick,
        "verdict": worst,
        "seconds": round(seconds, 1),
        "device": dict(device),
        "system": {"os": platform.system(), "machine": platform.machine(), "cores": core_count()},
        "versions": {**versions(), "onnxruntime-gpu": installed_version("onnxruntime-gpu")},
        "checks": [asdict(result) for result in results],
    }
    found: dict[str, Any] = impersonal(content, personal_names())
    return found


def personal_names() -> tuple[str, ...]:
    """Return the names of user and machine, as far as known; of a machine also without its domain."""
    whole = [socket.gethostname(), platform.node()]
    names = [*whole, *(name.partition(".")[0] for name in whole)]
    with suppress(OSError, KeyError, ImportError):  # a user id without a name
        names.append(getpass.getuser())
    return tuple(dict.fromkeys(filter(None, names)))


def _severity(status: str) -> int:
    return list[str](SEVERITY).index(status)


def _give_back(setup: Setup) -> None:
    """End a check's processes and let go of its memory, as far as the GPU still answers."""
    setup.end()
    with suppress(RuntimeError):
        setup.card.release()


def _line(result: Result, coming: Sequence[Check]) -> str:
    left = f"; about {sum(check.seconds for check in coming):.0f} s left" if coming else ""
    found = f"{result.found} [{result.seconds:.0f} s{left}]"
    return told(Finding(f"{result.number} {result.name}", result.status, found, result.repair))  # type: ignore[arg-type]


def _minutes(checks: Sequence[Check]) -> str:
    return count_text(max(1, round(sum(check.seconds for check in checks) / 60)), "minute")


def _verdict(results: Sequence[Result], content: dict[str, Any]) -> dict[str, Any]:
    wrong = [f"{result.number} {result.name}" for result in results if result.status == "wrong"]
    notes = sum(result.status == "note" for result in results)
    found = {"ok": not wrong, "wrong": len(wrong), "notes": notes, **content}
    if wrong:
        error = ResourceError(f"{len(wrong)} wrong: {', '.join(wrong)}; what to do stands above")
        error.result = found
        raise error
    say(f"nothing is wrong; {count_text(notes, 'note')}")
    return found

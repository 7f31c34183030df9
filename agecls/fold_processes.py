"""One fold at a time on each device, every fold in a process of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from agecls.config import CrossValidationConfig
from finetune.cli.console import say
from finetune.cli.machine import module_command, module_environment
from finetune.errors import CrlError, InterruptedRunError
from finetune.runs.interrupts import StopRequest
from finetune.training.optimization.precision import choose_precision

Running = dict[int, tuple[str, "subprocess.Popen[bytes]"]]


def run_on_devices(config: CrossValidationConfig, folder: Path, folds: list[int]) -> None:
    """Run `folds` on the configured devices; CrlError names the folds that failed and their logs.

    Its exit code is the highest of theirs.

    A request to stop (Ctrl-C, SIGTERM) is passed on: every fold saves itself before this one leaves.
    """
    for device in config.devices:
        choose_precision(device, config.run.precision)  # refuses a device that is not there, before any fold
    queue, failed, running = list(folds), dict[int, int](), Running()
    free = list(config.devices)
    threads = max(1, (os.cpu_count() or 1) // len(free))
    with StopRequest() as stop, stopping(running):
        while queue or running:
            while queue and free:
                fold, device = queue.pop(0), free.pop(0)
                say(f"fold {fold}: starting on {device}, its output goes to {fold_log(folder, fold)}")
                running[fold] = (device, start_fold(config, folder, fold, device, threads))
            for fold, (device, process) in list(running.items()):
                try:
                    code = process.wait(timeout=0.2)
                except subprocess.TimeoutExpired:
                    continue
                del running[fold]
                free.append(device)
                say(f"fold {fold}: {'finished' if code == 0 else f'failed with exit code {code}'}")
                failed |= {fold: code} if code else {}
            if stop.requested:
                raise InterruptedRunError(
                    f"stopped, folds {sorted(running)} save themselves; {resume_hint()}"
                )
    if failed:
        logs = ", ".join(str(fold_log(folder, fold)) for fold in failed)
        error = CrlError(f"folds {sorted(failed)} failed; see {logs}. {resume_hint()}")
        error.exit_code = max(failed.values())
        raise error


@contextmanager
def stopping(running: Mapping[int, tuple[str, subprocess.Popen[bytes]]]) -> Iterator[None]:
    """Ask the processes that still run when the `with` ends to save themselves and leave; wait for them."""
    try:
        yield
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def start_fold(
    config: CrossValidationConfig, folder: Path, fold: int, device: str, threads: int
) -> subprocess.Popen[bytes]:
    """Start a process that runs one fold on one device, as the result's own config.yaml says."""
    run = config.run
    options = {
        "config": folder / "config.yaml",
        "folds": fold,
        "device": device,
        "report": "false",
        "evaluate.batch_size": config.evaluate.batch_size,
        "run.dir": folder,
        "run.resume": "auto",
        "run.cache": run.cache,
        "run.workers": run.workers,
        "run.checkpoint_minutes": run.checkpoint_minutes,
    }
    if run.allow_change:
        options["run.allow_change"] = ",".join(run.allow_change)
    words = [f"--{name}={value}" for name, value in options.items()]
    with fold_log(folder, fold).open("ab") as log:
        return subprocess.Popen(
            module_command("agecls", "cv", *words),
            stdout=log,
            stderr=subprocess.STDOUT,
            env={"OMP_NUM_THREADS": str(threads), **module_environment()},
        )


def fold_log(folder: Path, fold: int) -> Path:
    """Return where the output of a fold's process goes."""
    return folder / f"fold{fold}.log"


def resume_hint() -> str:
    """Return the sentence that names the command to go on with."""
    from finetune.training.failures import resume_line

    return resume_line()

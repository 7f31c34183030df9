"""`crl doctor`: versions, duplicate packages, devices, weights, detector, disk, threads, with fixes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from apps.config import DoctorConfig
from apps.doctor.checks import (
    check_cache,
    check_disk,
    check_environment,
    check_packages,
    check_threads,
    check_weights,
)
from apps.runtime.installed import Finding, find_twins
from finetune.cli.console import say
from finetune.cli.machine import cpu_quota, granted_cores, module_command, module_environment
from finetune.errors import ResourceError
from finetune.figures.canvas import count_text

__all__ = ["Finding", "run_doctor"]

MOST_SECONDS = 60.0
SIGNS = {"ok": "ok   ", "note": "note ", "wrong": "WRONG"}
WIDTH = 100
COPIED = ("pip ", "export ", "fetch ", "put it ", "or pass ")


def run_doctor(config: DoctorConfig) -> dict[str, Any]:
    """Look the installation over, say what was found, and return it.

    The large libraries are asked in processes of their own, all at once: one that crashes is a finding.
    Raises ResourceError at the end where something is wrong; it carries the findings as `result`.
    """
    start = time.perf_counter()
    probes = _start_probes(config)
    try:
        findings = [*check_packages(), *(find_twins() or [_no_twins()])]
        for name, process in probes.items():
            findings += finish_probe(name, process, MOST_SECONDS - (time.perf_counter() - start))
    finally:
        _end(probes.values())
    findings.append(check_weights())
    places = _places()
    findings += check_disk(places)
    findings.append(check_cache(places.get("image cache")))
    findings.append(check_threads(granted_cores(), os.environ, cpu_quota()))
    findings += check_environment(os.environ)
    for finding in findings:
        say(told(finding))
    return _verdict(findings)


def told(finding: Finding) -> str:
    """Return a finding as lines for a person: sign, name, what was found, and the repair behind an arrow.

    >>> print(told(Finding("disk", "note", "1.0 GB free", "make room")))
    note   disk: 1.0 GB free
           -> make room
    """
    margin = " " * (len(SIGNS["ok"]) + 2)
    lines = _wrapped(f"{finding.name}: {finding.found}", f"{SIGNS[finding.status]}  ", margin)
    if finding.repair:
        lines += _wrapped(finding.repair, f"{margin}-> ", f"{margin}   ")
    return "\n".join(lines)


def _wrapped(text: str, first: str, margin: str) -> list[str]:
    """Return lines of at most WIDTH characters; what can be copied is never broken."""
    lines: list[str] = []
    for line in text.splitlines():
        lead = margin if lines else first
        if line.startswith(COPIED):
            lines.append(lead + line)
            continue
        lines += textwrap.wrap(
            line,
            WIDTH,
            initial_indent=lead,
            subsequent_indent=margin,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _no_twins() -> Finding:
    return Finding("duplicate packages", "ok", "none: one OpenCV, ONNX Runtime, Albumentations at most")


def _places() -> dict[str, Path]:
    from finetune.images.cache.source import cache_folder

    cache = cache_folder("auto")
    return {"run folder": Path.cwd(), **({} if cache is None else {"image cache": cache})}


def _start_probes(config: DoctorConfig) -> dict[str, subprocess.Popen[str]]:
    """Start every check that imports a large library."""
    probes = {"torch": [], "runtime": [], "pictures": [config.detector or ""]}
    if config.backbone or config.weights:
        probes["weights"] = [config.backbone or "", config.weights or ""]
    return {name: _start(name, words) for name, words in probes.items()}


def _end(processes: Iterable[subprocess.Popen[str]]) -> None:
    """Leave none behind where a signal or an error ends the doctor."""
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _start(name: str, words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        module_command("apps.doctor.probes", name, *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=module_environment(),
    )


def finish_probe(name: str, process: subprocess.Popen[str], seconds: float) -> list[Finding]:
    """Return what a probe found; a crash, a failure or more than `seconds` is a finding of its own."""
    again = f"python -P -m apps.doctor.probes {name} shows all of it"
    try:
        output, noise = process.communicate(timeout=max(0.1, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return [Finding(name, "wrong", f"gave no answer within {MOST_SECONDS:.0f} s", again)]
    if process.returncode == 0:
        return [Finding(**finding) for finding in json.loads(output.splitlines()[-1])]
    how = f"exit code {process.returncode}"
    if process.returncode < 0:
        how = f"killed by {signal.Signals(-process.returncode).name}"
    last = (noise.strip().splitlines() or ["without a word"])[-1]
    return [Finding(name, "wrong", f"the check broke down ({how}): {last[:300]}", again)]


def _verdict(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings for `--json`; ResourceError, with them, where one is wrong."""
    wrong = [finding.name for finding in findings if finding.status == "wrong"]
    notes = sum(finding.status == "note" for finding in findings)
    result = {
        "ok": not wrong,
        "wrong": len(wrong),
        "notes": notes,
        "checks": [asdict(finding) for finding in findings],
    }
    if wrong:
        error = ResourceError(f"{len(wrong)} wrong: {', '.join(wrong)}; the fixes are above")
        error.result = result
        raise error
    say(f"nothing is wrong; {count_text(notes, 'note')}")
    return result

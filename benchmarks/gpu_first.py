"""The first look at a GPU: `crl doctor --gpu`, then the benchmarks, in less than ten minutes.

Prints a section for docs/results.md under the GPU's name, and writes it beside gpu-check.json. What no longer
fits into the time is left out, which the section says. It ends with the doctor's exit code.

Run: python benchmarks/gpu_first.py [--gpu cuda:1] [--out gpu-first]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MOST_SECONDS = 570.0
LEAST_SECONDS = 20.0  # left: with less, nothing more is begun
SHOWN = 40  # last lines of a benchmark


class Bench(NamedTuple):
    """One benchmark: what it measures, its command, and the seconds it may take."""

    title: str
    words: Sequence[str]
    seconds: float


class Measured(NamedTuple):
    """What a benchmark printed, or why it did not."""

    bench: Bench
    lines: Sequence[str]
    note: str


def benches(gpu: str) -> list[Bench]:
    """Return the benchmarks of a GPU, the shortest first."""
    python = sys.executable
    cost = ["fine", "cost", "--device", gpu, "--image_size", "448", "--batch_size", "16", "--repeats", "5"]
    study = ["benchmarks/bench_study.py", "--device", gpu, "--images", "4096", "--rounds", "2"]
    return [
        Bench("What heads cost", [python, "-m", "apps.cli", *cost], 120.0),
        Bench("Losses, compiled", [python, "benchmarks/bench_losses.py", "--repeats", "5"], 90.0),
        Bench("Models side by side", [python, *study], 120.0),
    ]


def run(bench: Bench, left: float) -> Measured:
    """Run a benchmark for as long as it may and as there is time."""
    if left < LEAST_SECONDS:
        return Measured(bench, [], "left out: no time was left")
    limit = min(bench.seconds, left)
    print(f"{bench.title}: at most {limit:.0f} s", flush=True)
    try:
        done = subprocess.run(
            bench.words, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        return Measured(bench, said.strip().splitlines()[-SHOWN:], f"stopped after {limit:.0f} s")
    told = (done.stdout if done.stdout.strip() else done.stderr).strip().splitlines()
    note = "" if done.returncode == 0 else f"exit code {done.returncode}"
    return Measured(bench, told[-SHOWN:], note)


def section(content: Mapping[str, Any], measured: Sequence[Measured], commit: str) -> str:
    """Return the section for docs/results.md: what was checked, how fast it trains, and the benchmarks."""
    device, versions = content["device"], content["versions"]
    what = f"compute capability {device['capability']}, driver {device['driver']}, CUDA {device['cuda']}"
    lines = [
        f"## {device['name']}",
        "",
        f"The GPU has {device['memory_bytes'] / 1e9:.0f} GB ({what}). Beside it are "
        f"{content['system']['cores']} cores. It ran torch {versions['torch']} and commit {commit}.",
        "",
        "```",
        "python benchmarks/gpu_first.py",
        "```",
        "",
        "| check | verdict | found |",
        "|---|---|---|",
        *(
            f"| {row['number']} {row['name']} | {row['status']} | {cell(row['found'])} |"
            for row in content["checks"]
        ),
        "",
        *speed_table(content["checks"]),
    ]
    for one in measured:
        lines += [f"### {one.bench.title}", "", *([f"Note: {one.note}.", ""] if one.note else [])]
        lines += ["```", *map(str.rstrip, one.lines), "```", ""] if one.lines else []
    return "\n".join(lines)


def speed_table(checks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the table of speeds, empty where they were not measured."""
    numbers = next((row["numbers"] for row in checks if row["name"] == "speed"), {})
    rows = [
        f"| {where} | {speeds['on device']['images']:,.0f} | {speeds['ours']['images']:,.0f} "
        f"| {speeds['plain']['images']:,.0f} | {100 * speeds['ours']['main']:.0f} |"
        for where, speeds in numbers.items()
        if isinstance(speeds, Mapping)
    ]
    if not rows:
        return []
    head = "| training, img/s | batch on the device | our loader | timm's plain loop |"
    return [f"{head} main thread, % of a core |", "|---|---:|---:|---:|---:|", *rows, ""]


def cell(text: str) -> str:
    """Return a text that fits into a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "/")


def commit_of(root: Path) -> str:
    """Return the checkout's commit, "unknown" where there is none."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> int:
    """Run everything, print the section, and return the doctor's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu", default="cuda", help="cuda or cuda:1")
    parser.add_argument("--out", type=Path, default=Path("gpu-first"), help="folder for what is written")
    options = parser.parse_args()
    start = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    file = out / "gpu-check.json"
    file.unlink(missing_ok=True)
    doctor = [sys.executable, "-m", "apps.cli", "doctor", "--gpu", options.gpu, "--out", str(file)]
    code = subprocess.run(doctor, cwd=ROOT, check=False).returncode
    if not file.is_file():
        return code
    measured = [run(bench, MOST_SECONDS - (time.monotonic() - start)) for bench in benches(options.gpu)]
    text = section(json.loads(file.read_text(encoding="utf-8")), measured, commit_of(ROOT))
    (out / "results.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nwritten to {options.out}/results.md and {options.out}/gpu-check.json: please send both")
    return code


if __name__ == "__main__":
    sys.exit(main())

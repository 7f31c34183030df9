"""Run every benchmark, one after the other, and list every bar at the end: met or missed, and why.

What a benchmark prints is shown as it comes. A line that says "met" or "missed" is a bar. A reason stands
here for every bar that is known to be missed; one missed without a reason is news. Keep the machine quiet.

Run: python benchmarks/all.py [--only losses augment] [--timm_train FILE]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERDICT = re.compile(r"\b(met|missed)\b", re.IGNORECASE)
SKIPPED = re.compile(r"^skipped|: there was none|not timed|not measured", re.IGNORECASE)

# What a missed bar's line holds, and why it is missed.
REASONS = {
    r"^ratio .*bar 3\.0|resnet34": "AVX-512's bfloat16 does at most twice the float32 work of a cycle",
    r"\((256, 1000|1024, 10000)\).*": "passes over all classes, and some twenty operations on small tensors",
    r"onnx fp32 against torch fp32": "the runtime does nearly as many operations as the cores can",
    r"onnx int8 against onnx fp32": "convolutions alone are twice as fast, what is between them is not",
    r"^frozen study": "figures and report are most of a cell that finds its features",
    r"^\| (logistic|mlp)": "a step of so small a network is bound by the number of operations",
    r"^\| (mnist_cnn|cifar_cnn)": "most of the step is arithmetic that the loader's loop does too",
}


@dataclass(frozen=True)
class Bar:
    """A line with a verdict, and the benchmark it comes from."""

    script: str
    line: str

    @property
    def missed(self) -> bool:
        return any(word.lower() == "missed" for word in VERDICT.findall(self.line))

    @property
    def reason(self) -> str:
        """Why it is missed, as far as it is known."""
        found = [why for pattern, why in REASONS.items() if re.search(pattern, self.line)]
        return found[0] if found else "no reason is known: it was met before, or never measured here"


def bars_of(script: str, lines: Sequence[str]) -> list[Bar]:
    """Return the bars among a benchmark's lines; one that says how many were missed is none.

    >>> [bar.missed for bar in bars_of("x", ["a: 2x, bar 3x: MISSED", "2 bars missed: ...", "b: met"])]
    [True, False]
    """
    own = [" ".join(line.split()) for line in lines if VERDICT.search(line)]
    return [Bar(script, line) for line in own if not re.match(r"every bar|\d+ bars missed", line)]


def run(script: Path, more: Sequence[str]) -> tuple[list[str], int]:
    """Run one benchmark, showing what it prints; return its lines and its exit code."""
    print(f"\n== {script.name}", flush=True)
    words = [sys.executable, str(script), *more]
    lines = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    return lines, process.returncode


def main() -> int:
    """Print the list; return 1 where a benchmark failed, or a bar is missed for no known reason."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [script.stem.removeprefix("bench_") for script in sorted(HERE.glob("bench_*.py"))]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--timm_train", help="timm's train.py, for bench_finetune")
    options = parser.parse_args()
    bars: list[Bar] = []
    failed, skipped = [], []
    for name in options.only:
        more = ["--timm_train", options.timm_train] if name == "finetune" and options.timm_train else []
        lines, code = run(HERE / f"bench_{name}.py", more)
        found = bars_of(name, lines)
        bars += found
        skipped += [f"{name}: {line.strip()}" for line in lines if SKIPPED.search(line)]
        if code and not any(bar.missed for bar in found):
            failed.append(f"{name} ended with {code}")
    print(f"\n== {len(bars)} bars, {sum(bar.missed for bar in bars)} missed")
    for bar in bars:
        print(f"{'missed' if bar.missed else 'met':<7} {bar.script}: {bar.line}")
        if bar.missed:
            print(f"{'':7} why: {bar.reason}")
    for line in (*skipped, *failed):
        print(f"not measured: {line}" if line in skipped else f"failed: {line}")
    news = [bar for bar in bars if bar.missed and bar.reason.startswith("no reason")]
    return int(bool(failed or news))


if __name__ == "__main__":
    sys.exit(main())

"""Time and peak memory of every loss against torch's cross-entropy, forward and backward, beside the bars.

    python benchmarks/bench_losses.py [--repeats 30] [--losses cel crl ...]

One thread, float32. In every round the loss and cross-entropy are run side by side, in an order drawn afresh,
and compared by the CPU time they took; what counts is the median over the rounds of their ratio (or of their
difference), so that a busy machine disturbs both sides alike. On CUDA it is wall-clock time, synchronised.
Memory is the highest sum of live allocations beyond the input, by torch's profiler.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core_losses import LOSSES, build_loss

Loss = Callable[[Tensor, Tensor], Tensor]
MEMORY_BAR = 1.3
WARM_UP = 5


@dataclass(frozen=True)
class Shape:
    """Batch size, number of classes, rounds per repeat, and the bar: a ratio, or milliseconds more."""

    batch: int
    classes: int
    rounds: int
    ratio: float | None = None
    extra_ms: float | None = None

    competitors: float | None = None  # the ratio of losses that read every competitor's posterior

    def ratio_of(self, name: str) -> float | None:
        reads_all = LOSSES[name].line is None
        return self.competitors if self.competitors and reads_all else self.ratio

    def met(self, name: str, ratio: float, extra_ms: float) -> bool:
        bar = self.ratio_of(name)
        return ratio <= bar if bar is not None else extra_ms <= (self.extra_ms or 0.0)

    def bar(self, name: str) -> str:
        bar = self.ratio_of(name)
        return f"{bar:g}x" if bar is not None else f"+{self.extra_ms:g} ms"


CPU_SHAPES = (
    Shape(1024, 10_000, rounds=1, ratio=1.0),
    Shape(256, 1000, rounds=20, ratio=1.4, competitors=2.0),
    Shape(64, 200, rounds=40, extra_ms=0.1),
)
COMPILED_SHAPE = Shape(1024, 10_000, rounds=10, ratio=1.1)


def step(loss: Loss, logits: Tensor, target: Tensor) -> None:
    torch.autograd.grad(loss(logits, target), logits)


def batch(shape: Shape, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape.batch, shape.classes, generator=generator)
    target = torch.randint(0, shape.classes, (shape.batch,), generator=generator)
    return logits.to(device).requires_grad_(), target.to(device)


def step_ms(loss: Loss, logits: Tensor, target: Tensor) -> float:
    if not logits.is_cuda:
        start = time.process_time_ns()
        step(loss, logits, target)
        return (time.process_time_ns() - start) / 1e6
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    step(loss, logits, target)
    torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / 1e6


def rounds_ms(ours: Loss, theirs: Loss, logits: Tensor, target: Tensor, rounds: int) -> list[list[float]]:
    """Return, for every round, the time of our step and of theirs."""
    seen = []
    for round_ in range(rounds + WARM_UP):
        times = [0.0, 0.0]
        for turn in random.sample((0, 1), 2):
            times[turn] = step_ms((ours, theirs)[turn], logits, target)
        if round_ >= WARM_UP:
            seen.append(times)
    return seen


def peak_bytes(loss: Loss, logits: Tensor, target: Tensor) -> int:
    """Return the most memory one step holds at once, beyond what was held before it."""
    step(loss, logits, target)
    if logits.is_cuda:
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(loss, logits, target)
        return torch.cuda.max_memory_allocated() - held
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step(loss, logits, target)
    records = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    live, peak = 0, 0
    for record in sorted(records, key=lambda event: event.start_ns()):
        live += record.nbytes()
        peak = max(peak, live)
    return peak


def measure(
    names: Sequence[str], shape: Shape, device: str, repeats: int, wrap: Callable[[Any], Loss]
) -> list[str]:
    """Print one shape's table; return its bars, each with its verdict."""
    logits, target = batch(shape, device)
    rival = wrap(torch.nn.CrossEntropyLoss())
    rival_peak = peak_bytes(rival, logits, target)
    print(f"\n({shape.batch}, {shape.classes}) on {device}")
    print(f"{'loss':8}{'ms':>9}{'CE ms':>9}{'ratio':>8}{'more ms':>9}")
    verdicts = []
    for name in names:
        loss = wrap(build_loss(name))
        seen = rounds_ms(loss, rival, logits, target, repeats * shape.rounds)
        ours, theirs = (statistics.median(times) for times in zip(*seen, strict=True))
        ratio = statistics.median(a / b for a, b in seen)
        extra = statistics.median(a - b for a, b in seen)
        memory = peak_bytes(loss, logits, target) / rival_peak
        size, told = f"{name} ({shape.batch}, {shape.classes})", f"{ratio:.2f}x"
        told = told if shape.ratio is not None else f"{extra:+.3f} ms"
        print(f"{name:8}{ours:9.3f}{theirs:9.3f}{ratio:7.2f}x{extra:+9.3f}")
        for what, bar, met in (
            (f"time {told}", shape.bar(name), shape.met(name, ratio, extra)),
            (f"memory {memory:.2f}x", f"{MEMORY_BAR:g}x", memory <= MEMORY_BAR),
        ):
            verdicts.append(f"{size}: {what}, bar {bar}: {'met' if met else 'MISSED'}")
    return verdicts


def keep_freed_memory() -> None:
    """Free a large block once: from then on the C library reuses freed memory, as it does in a long run."""
    torch.empty(1 << 24, dtype=torch.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30, help="measured rounds at the largest shape")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter
    keep_freed_memory()
    print(f"torch {torch.__version__}, float32, forward + backward, against torch's cross-entropy (CE)")
    verdicts = []
    for shape in CPU_SHAPES:
        verdicts += measure(arguments.losses, shape, "cpu", arguments.repeats, lambda x: x)
    if torch.cuda.is_available():
        verdicts += measure(arguments.losses, COMPILED_SHAPE, "cuda", arguments.repeats, torch.compile)
    else:
        print("\nno CUDA device: the torch.compile row was not measured")
    print("\n".join(["", *verdicts]))


if __name__ == "__main__":
    main()

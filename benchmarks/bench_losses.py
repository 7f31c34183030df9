"""Time and peak memory of every loss against torch's cross-entropy, forward and backward, beside the bars.

    python benchmarks/bench_losses.py [--repeats 30] [--losses cel crl ...]

One thread, float32. Loss and cross-entropy take turns, so that both meet the same machine; the ratio is that
of the medians. Memory is the highest sum of live allocations beyond the input, by torch's profiler.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses import LOSSES, build_loss

Loss = Callable[[Tensor, Tensor], Tensor]
MEMORY_BAR = 1.3


@dataclass(frozen=True)
class Shape:
    """A batch size, a number of classes, and the bar: a ratio, or milliseconds more."""

    batch: int
    classes: int
    ratio: float | None = None
    extra_ms: float | None = None

    def met(self, ours: float, theirs: float) -> bool:
        if self.ratio is not None:
            return ours <= self.ratio * theirs
        assert self.extra_ms is not None
        return ours <= theirs + self.extra_ms

    def bar(self) -> str:
        return f"<= {self.ratio:g}x" if self.ratio is not None else f"<= +{self.extra_ms:g} ms"


CPU_SHAPES = (Shape(1024, 10_000, ratio=1.0), Shape(256, 1000, ratio=1.4), Shape(64, 200, extra_ms=0.1))
COMPILED_SHAPE = Shape(1024, 10_000, ratio=1.1)


def step(loss: Loss, logits: Tensor, target: Tensor) -> None:
    torch.autograd.grad(loss(logits, target), logits)


def batch(shape: Shape, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(shape.batch, shape.classes, generator=generator)
    target = torch.randint(0, shape.classes, (shape.batch,), generator=generator)
    return logits.to(device).requires_grad_(), target.to(device)


def median_ms(losses: Sequence[Loss], logits: Tensor, target: Tensor, repeats: int) -> list[float]:
    """Return each loss's median time of a step; the losses take turns, after three unmeasured rounds."""
    synchronise: Callable[[], None] = torch.cuda.synchronize if logits.is_cuda else lambda: None
    times: list[list[float]] = [[] for _ in losses]
    for round_ in range(repeats + 3):
        for loss, seen in zip(losses, times, strict=True):
            synchronise()
            start = time.perf_counter()
            step(loss, logits, target)
            synchronise()
            if round_ >= 3:
                seen.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(seen) for seen in times]


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
) -> bool:
    """Print one shape's table; return whether every bar on it was met."""
    logits, target = batch(shape, device)
    rival = wrap(torch.nn.CrossEntropyLoss())
    rival_peak = peak_bytes(rival, logits, target)
    print(f"\n({shape.batch}, {shape.classes}) on {device}: bar {shape.bar()}, memory <= {MEMORY_BAR:g}x")
    print(f"{'loss':8}{'ms':>10}{'CE ms':>10}{'ratio':>8}{'more ms':>10}{'memory':>9}   bars")
    all_met = True
    for name in names:
        loss = wrap(build_loss(name))
        ours, theirs = median_ms([loss, rival], logits, target, repeats)
        memory = peak_bytes(loss, logits, target) / rival_peak
        met = shape.met(ours, theirs) and memory <= MEMORY_BAR
        all_met &= met
        print(
            f"{name:8}{ours:10.3f}{theirs:10.3f}{ours / theirs:7.2f}x{ours - theirs:+10.3f}{memory:8.2f}x"
            f"   {'met' if met else 'MISSED'}"
        )
    return all_met


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30, help="measured rounds at the largest shape")
    parser.add_argument("--losses", nargs="+", choices=list(LOSSES), default=list(LOSSES), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter
    print(f"torch {torch.__version__}, float32, forward + backward, against {F.cross_entropy.__name__}")
    met = [
        measure(
            arguments.losses,
            shape,
            "cpu",
            arguments.repeats * (1 if shape.classes > 5000 else 10),
            lambda x: x,
        )
        for shape in CPU_SHAPES
    ]
    if torch.cuda.is_available():
        met.append(measure(arguments.losses, COMPILED_SHAPE, "cuda", arguments.repeats * 10, torch.compile))
    else:
        print("\nno CUDA device: the torch.compile row was not measured")
    print(f"\n{'every bar met' if all(met) else 'some bars missed: see the rows above'}")


if __name__ == "__main__":
    main()

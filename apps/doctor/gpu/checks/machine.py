"""Check 1: whether torch has code for this GPU, what is free on it, and what stands around it."""

from __future__ import annotations

from apps.doctor.gpu.bounds import LEAST_MEMORY, RING_IMAGES
from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from finetune.images.workers import REMEDY
from finetune.training.predict import worker_count

FOUR = 4.0  # each element of the product that is computed: 2 + 2
COMPILER = "apt install gcc python3-dev, or their like; until then: --run.compile off"


def check_machine(setup: Setup) -> Outcome:
    """Return what stands in the way of any training: no kernels, no memory, no shared memory, no compiler."""
    card, found = setup.card, Findings()
    facts = dict(card.facts())
    found.add(f"{facts['name']}, compute capability {facts['capability']}, driver {facts['driver']}", **facts)
    found.numbers["kernels"] = card.kernels()
    found.require(
        (unserved := card.unserved()) is None, unserved or "", "install the torch build that it names"
    )
    answer = card.computes()
    right = answer.shape == (8, 8) and bool((answer == FOUR).all())
    found.require(right, "a product of ones is wrong", "update the NVIDIA driver; then test the GPU itself")
    _memory(setup, found)
    _shared_memory(setup, found)
    _compiler(setup, found)
    return found.outcome()


def _memory(setup: Setup, found: Findings) -> None:
    free, total = setup.card.free_and_total()
    found.add(f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free", free_bytes=free)
    found.require(
        free >= LEAST_MEMORY,
        f"only {free / 1e9:.1f} GB are free on it",
        "end other programs on the GPU (nvidia-smi lists them), or lower --train.batch_size",
        "note",
    )


def _shared_memory(setup: Setup, found: Findings) -> None:
    """Look whether the batches that worker processes hold at once fit: two of each, and two more."""
    room = setup.card.shared_memory()
    if room is None:
        return
    workers = worker_count(-1)
    wanted, least = (2 * workers + 2) * RING_IMAGES, 2 * RING_IMAGES
    found.add(f"{room / 1e9:.1f} GB of shared memory", shared_bytes=room, shared_wanted_bytes=wanted)
    told = (
        f"{wanted / 1e9:.2f} GB of shared memory are wanted for {workers} workers, {room / 1e9:.2f} are free"
    )
    if room < wanted:
        found.fault("wrong" if room < least else "note", told, REMEDY)


def _compiler(setup: Setup, found: Findings) -> None:
    """Look for what torch.compile needs at run time; without it, training goes on uncompiled."""
    compiler, headers = setup.card.compiler(), setup.card.has_headers()
    found.numbers |= {"compiler": compiler is not None, "headers": headers}
    missing = [
        name for name, there in (("a C compiler", compiler), ("Python's headers", headers)) if not there
    ]
    if missing:
        found.fault("note", f"torch.compile lacks {' and '.join(missing)}", COMPILER)
    else:
        found.add("compiler and headers are there")

"""Check 5: scores that are promised in float32 are made in float32, and the switch for it works."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from apps.doctor.gpu.bounds import SCORE_ERROR
from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.drawn import MEAN, STD, drawn_images, random_classifier
from finetune.images.batches import normalise
from finetune.images.loading.copies import to_device
from finetune.models.classifier import Classifier
from finetune.training.optimization.precision import Precision, choose_precision


@torch.inference_mode()
def logits_of(core: Classifier, images: Tensor, precision: Precision) -> Tensor:
    """Return logits (B, K) as an evaluation makes them, on the CPU in float64."""
    precision.place(core).eval()
    there = normalise(to_device(images, precision.device), MEAN, STD)
    with precision.autocast():
        return core.infer(precision.arrange(there)).to("cpu", torch.float64)


def check_scores(setup: Setup) -> Outcome:
    """Return how far logits in float32 and in TF32 are from the processor's, in parts of their range."""
    sizes, found = setup.sizes, Findings()
    core = random_classifier(sizes.large, "linear", sizes.large_side)
    images = drawn_images(sizes.batch, sizes.large_side)
    wanted = logits_of(core, images, choose_precision("cpu", "float32"))
    exact = setup.precision("bfloat16" if setup.card.has_tf32 else "float32").in_float32()
    logits = logits_of(core, images, exact)
    spread = float(wanted.max() - wanted.min())
    error = float((logits - wanted).abs().max()) / spread
    found.add(f"float32 off by {error:.1e} of the logits' range", float32=error, range=spread)
    same = torch.equal(logits.argmax(1), wanted.argmax(1))
    repair = "do not compare scores of this GPU with others': evaluate with --device cpu; send gpu-check.json"
    found.require(
        error <= SCORE_ERROR, "scores in float32 are further from the processor's than they may be", repair
    )
    found.require(same, "another class is predicted than by the processor", repair)
    if not setup.card.has_tf32:
        found.add("no TF32 on this GPU")
        return found.outcome()
    rounded = float((logits_of(core, images, replace(exact, tf32=True)) - wanted).abs().max()) / spread
    found.add(f"TF32 by {rounded:.1e}", tf32=rounded)
    switch = "TF32 is no less exact than float32: the switch between them has no effect"
    found.require(
        rounded > error, switch, "unset NVIDIA_TF32_OVERRIDE and TORCH_ALLOW_TF32_CUBLAS_OVERRIDE, if set"
    )
    return found.outcome()

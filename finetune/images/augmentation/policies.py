"""Named augmentation policies: each result is a pure function of (prepared image, seed).

A name is a policy, or a policy and what follows it, joined by "+": `standard+randaugment+random_erasing`.
What follows may stand alone and then follows `standard`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from finetune.errors import UsageError
from finetune.images.augmentation import crops, extras, fused, library
from finetune.images.augmentation.crops import Apply
from finetune.images.augmentation.extras import Change
from finetune.images.preprocess import PreprocessSpec
from finetune.seeding import derive_seed


class Policy(NamedTuple):
    """How a policy is built, and what it does in words."""

    build: Callable[[PreprocessSpec], Apply]
    words: str


class Extra(NamedTuple):
    """How a follower is built, and what it does in words."""

    build: Callable[[PreprocessSpec], Change]
    words: str


# A new policy is a function and an entry here.
POLICIES: dict[str, Policy] = {
    "none": Policy(partial(crops.placed, "none"), "centre crop, the same as in evaluation"),
    "flip": Policy(partial(crops.placed, "flip"), "centre crop, mirrored half of the time"),
    "face": Policy(
        library.face,
        "affine jitter (10 degrees, 10 % scale, 5 % shift), random crop of 80-100 % of the area, mirror, "
        "light colour changes: for faces that are aligned or tightly cropped",
    ),
    "face_fast": Policy(fused.face_fast, "the ranges of face, in one step"),
    "standard": Policy(
        crops.standard,
        "random crop of 8-100 % of the area, sides 3:4 to 4:3, mirror: the ImageNet recipe",
    ),
    "strong": Policy(
        library.strong,
        "standard, affine jitter and colour changes, at times grey, blurred or with a patch erased",
    ),
    "strong_fast": Policy(fused.strong_fast, "the ranges of strong, in one step"),
    "crop": Policy(
        partial(crops.placed, "crop"), "crop of the network's size from anywhere in the image, mirror"
    ),
    "rotate_crop": Policy(crops.rotate_crop, "rotation by up to 15 degrees, then crop and mirror"),
}

EXTRAS: dict[str, Extra] = {
    "randaugment": Extra(extras.randaugment, "two of 14 operations at magnitude 9 of 30"),
    "trivialaugment": Extra(extras.trivialaugment, "one of 14 operations at any strength"),
    "random_erasing": Extra(
        extras.random_erasing, "in every fourth image, random pixels in a rectangle of 2-33 % of the area"
    ),
}
ALONE = "standard"  # what an extra follows when it stands alone
JOINED = "+"
POLICY_RULE = (
    f"give one of {', '.join(POLICIES)}; with or without {', '.join(EXTRAS)} behind it, each once and "
    f"joined by {JOINED}, as in standard+randaugment+random_erasing"
)


class Augment:
    """One policy at one preprocessing: `augment(prepared, seed)` -> uint8 (S, S, 3).

    `prepared` is uint8 (h, w, 3) as `prepare` returns it, S is `spec.image_size` and `seed` any integer >= 0.
    Not for two threads at once (the generators sit in the transforms); each process has its own copy.
    Raises UsageError for a name that `policy_parts` refuses.
    """

    def __init__(self, policy: str, spec: PreprocessSpec) -> None:
        first, following = policy_parts(policy)
        self.policy = policy
        self.spec = spec
        self._apply = POLICIES[first].build(spec)
        self._changes = [(name, EXTRAS[name].build(spec)) for name in following]

    def __call__(self, prepared: np.ndarray, seed: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return the augmented image for this seed, written into `out` (contiguous) where it is given."""
        if out is None:
            out = np.empty((self.spec.image_size, self.spec.image_size, 3), np.uint8)
        self._apply(prepared, seed, out)
        for name, change in self._changes:
            change(out, derive_seed(seed, name))
        return out

    def __reduce__(self) -> tuple[type[Augment], tuple[str, PreprocessSpec]]:
        """Pickle by name: the other process builds its own transforms."""
        return Augment, (self.policy, self.spec)


def build_augment(policy: str, spec: PreprocessSpec) -> Augment:
    """Return the augmentation of this name; UsageError lists the names there are."""
    return Augment(policy, spec)


def policy_parts(policy: str) -> tuple[str, list[str]]:
    """Return the policy and what follows it.

    Raises UsageError for an unknown name, a name given twice, or two policies.

    >>> policy_parts("flip+random_erasing"), policy_parts("randaugment")
    (('flip', ['random_erasing']), ('standard', ['randaugment']))
    """
    names = policy.split(JOINED)
    first, following = (names[0], names[1:]) if names[0] in POLICIES else (ALONE, names)
    unknown = [name for name in following if name not in EXTRAS]
    if unknown or len({*following}) < len(following):
        raise UsageError(f"augmentation {policy!r} is not offered; {POLICY_RULE}")
    return first, following

"""Named augmentation policies: each result is a pure function of (prepared image, seed).

Albumentations keeps generators of its own that ignore numpy's and torch's seeds and repeat in every worker;
here both are replaced before every single image, so that the result depends neither on the process nor on
the order of calls. It is imported when a policy that needs it is built (it takes about a second). Policies of
crop and mirror alone are written out: without the library's bookkeeping they take half the time.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from finetune.errors import UsageError
from finetune.images.preprocess import INTERPOLATIONS, Place, PreprocessSpec, place_crop, resize

if TYPE_CHECKING:
    import albumentations as A

# Writes the augmented image of (prepared, seed) into uint8 (S, S, 3).
Apply = Callable[[np.ndarray, int, np.ndarray], None]

FLIP_PROBABILITY = 0.5
ANY_CROP = (0.08, 1.0)
FACE_CROP = (0.8, 1.0)
ROTATION = 15.0  # degrees to either side
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
ANTIALIAS_FROM = 1.5


class Augment:
    """One policy at one preprocessing: `augment(prepared, seed)` -> uint8 (S, S, 3).

    `prepared` is uint8 (h, w, 3) as `prepare` returns it, S is `spec.image_size` and `seed` any integer >= 0.
    Not for two threads at once (the generators sit in the transforms); each process has its own copy.
    Raises UsageError for a policy that is not in `POLICIES`.
    """

    def __init__(self, policy: str, spec: PreprocessSpec) -> None:
        if policy not in POLICIES:
            raise UsageError(f"augmentation {policy!r} is not offered; choose from {', '.join(POLICIES)}")
        self.policy = policy
        self.spec = spec
        self._apply = POLICIES[policy](spec)

    def __call__(self, prepared: np.ndarray, seed: int, out: np.ndarray | None = None) -> np.ndarray:
        """Return the augmented image for this seed, written into `out` (contiguous) where it is given."""
        if out is None:
            out = np.empty((self.spec.image_size, self.spec.image_size, 3), np.uint8)
        self._apply(prepared, seed, out)
        return out

    def __reduce__(self) -> tuple[type[Augment], tuple[str, PreprocessSpec]]:
        """Pickle by name: the other process builds its own transforms."""
        return Augment, (self.policy, self.spec)


def build_augment(policy: str, spec: PreprocessSpec) -> Augment:
    """Return the policy of this name; UsageError lists the names there are.

    none         centre crop, the same as in evaluation
    flip         centre crop, mirrored with probability 1/2
    face         small affine jitter (10 degrees, 10 % scale, 5 % shift), random crop of 80-100 % of the area,
                 mirror, light colour: for faces that are already aligned or tightly cropped
    standard     random crop of 8-100 % of the area at an aspect ratio of 3/4 to 4/3, mirror: the ImageNet
                 recipe
    strong       standard, with affine and colour jitter, now and then grey, blur or a patch erased
    crop         a crop of the network's size anywhere in the prepared image, mirror: no second resizing
    rotate_crop  rotation by up to 15 degrees about the middle of the prepared image, black where nothing
                 is, then crop and mirror as above
    """
    return Augment(policy, spec)


def draw_crop(
    rng: random.Random, height: int, width: int, area: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a random crop, in pixels.

    The crop's fraction of the area is uniform in `area` and the logarithm of its aspect ratio uniform between
    those of 3/4 and 4/3; after ten draws that do not fit, the largest centred square is taken (Szegedy et
    al., Going Deeper with Convolutions, 2015, section 6).
    """
    for _ in range(CROP_ATTEMPTS):
        pixels = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        crop_height, crop_width = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = rng.randint(0, height - crop_height)
            return top, rng.randint(0, width - crop_width), crop_height, crop_width
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def _none(_seed: int, height: int, width: int, side: int) -> Place:
    return (height - side) // 2, (width - side) // 2, False


def _flip(seed: int, height: int, width: int, side: int) -> Place:
    return (height - side) // 2, (width - side) // 2, _mirrors(random.Random(seed))


def _crop(seed: int, height: int, width: int, side: int) -> Place:
    return _draw_place(random.Random(seed), height, width, side)


# Policies that move whole pixels and no more: where the crop of (seed, height, width, side) lies.
PLACES: dict[str, Callable[[int, int, int, int], Place]] = {"none": _none, "flip": _flip, "crop": _crop}


def _placed(place: Callable[[int, int, int, int], Place], spec: PreprocessSpec) -> Apply:
    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        height, width = prepared.shape[:2]
        place_crop(prepared, place(seed, height, width, spec.image_size), out)

    return apply


def _rotate_crop(spec: PreprocessSpec) -> Apply:
    interpolation = INTERPOLATIONS[spec.interpolation]

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        rng = random.Random(seed)
        turned = rotate(prepared, rng.uniform(-ROTATION, ROTATION), interpolation)
        place_crop(turned, _draw_place(rng, turned.shape[0], turned.shape[1], spec.image_size), out)

    return apply


def rotate(picture: np.ndarray, degrees: float, interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Return uint8 (h, w, 3) turned anti-clockwise about its middle, black where no pixel came from."""
    height, width = picture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    turned: np.ndarray = cv2.warpAffine(picture, turn, (width, height), flags=interpolation)
    return turned


def _standard(spec: PreprocessSpec) -> Apply:
    side, antialias = spec.image_size, _shrinks(spec)
    interpolation = INTERPOLATIONS[spec.interpolation]

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        rng = random.Random(seed)
        top, left, height, width = draw_crop(rng, prepared.shape[0], prepared.shape[1], ANY_CROP)
        crop = prepared[top : top + height, left : left + width]
        if antialias:
            out[:] = resize(crop, side, side, spec.interpolation)
        else:
            cv2.resize(crop, (side, side), dst=out, interpolation=interpolation)
        _mirror_half(rng, out)

    return apply


def _face(spec: PreprocessSpec) -> Apply:
    A = _albumentations()  # noqa: N806
    return _seeded(
        [
            _jitter(A, degrees=10, scale=0.1, shift=0.05),
            _random_crop(A, spec, FACE_CROP),
            A.HorizontalFlip(p=FLIP_PROBABILITY),
            A.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.0, p=0.5),
        ]
    )


def _strong(spec: PreprocessSpec) -> Apply:
    A = _albumentations()  # noqa: N806
    return _seeded(
        [
            _random_crop(A, spec, ANY_CROP),
            A.HorizontalFlip(p=FLIP_PROBABILITY),
            _jitter(A, degrees=15, scale=0.1, shift=0.05, p=0.5),
            A.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05, p=0.8),
            A.ToGray(p=0.1),
            A.GaussianBlur(blur_limit=(3, 7), p=0.1),
            A.CoarseDropout(
                num_holes_range=(1, 1), hole_height_range=(0.1, 0.3), hole_width_range=(0.1, 0.3), p=0.25
            ),
        ]
    )


# A table of plain functions: a new policy is a function and a line here.
POLICIES: dict[str, Callable[[PreprocessSpec], Apply]] = {
    "none": partial(_placed, _none),
    "flip": partial(_placed, _flip),
    "face": _face,
    "standard": _standard,
    "strong": _strong,
    "crop": partial(_placed, _crop),
    "rotate_crop": _rotate_crop,
}


def _draw_place(rng: random.Random, height: int, width: int, side: int) -> Place:
    """Return a square crop from anywhere in the image, mirrored half of the time."""
    return rng.randint(0, height - side), rng.randint(0, width - side), _mirrors(rng)


def _mirrors(rng: random.Random) -> bool:
    return rng.random() < FLIP_PROBABILITY


def _mirror_half(rng: random.Random, picture: np.ndarray) -> None:
    if _mirrors(rng):
        cv2.flip(picture, 1, dst=picture)


def _shrinks(spec: PreprocessSpec) -> bool:
    """Whether a crop can shrink enough to alias; below this, averaging areas is cost without benefit."""
    return spec.resize_size >= ANTIALIAS_FROM * spec.image_size


def _albumentations() -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import asks a server for newer versions otherwise
    import albumentations

    return albumentations


def _random_crop(A: Any, spec: PreprocessSpec, area: tuple[float, float]) -> A.BasicTransform:  # noqa: N803
    return A.RandomResizedCrop(
        (spec.image_size, spec.image_size),
        scale=area,
        ratio=CROP_RATIO,
        interpolation=INTERPOLATIONS[spec.interpolation],
        area_for_downscale="image" if _shrinks(spec) else None,
    )


def _jitter(A: Any, degrees: float, scale: float, shift: float, p: float = 1.0) -> A.BasicTransform:  # noqa: N803
    return A.Affine(
        rotate=(-degrees, degrees),
        scale=(1 - scale, 1 + scale),
        translate_percent=(-shift, shift),
        border_mode=cv2.BORDER_REFLECT_101,
        p=p,
    )


def _seeded(transforms: list[A.BasicTransform]) -> Apply:
    pipeline = _albumentations().Compose(transforms)

    def apply(prepared: np.ndarray, seed: int, out: np.ndarray) -> None:
        # One pair of generators for all transforms: a quarter of the cost of seeding each one separately.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out[:] = pipeline(image=prepared)["image"]

    return apply

"""How a face is cut out of a photograph before a model sees it, as data: a style, a margin, a shift, a shape.

A model is worth its reported accuracy only on crops like those it was trained on: a crop of another size or
another alignment costs more than most choices of network. So the rule travels with the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

from finetune.errors import UsageError

CropStyle = Literal["aligned", "faces", "plain"]
STYLES: tuple[CropStyle, ...] = get_args(CropStyle)
MAX_MARGIN, MAX_DROP, MAX_ASPECT = 3.0, 1.0, 5.0

# Fraction of the face box's longer side that is added on every side. Adience's faces/ images have 25 % by
# their readme, and 25 % around YuNet's box (median of 1,584). Of other images nothing is known: 40 % is
# what a widely used age estimator was trained with (yu4u's WideResNet), but FG-NET's leave 22 % above and
# below and are 0.8 as wide as high: cut as 40 % squares they cost its cross-entropy and CRL models 9.6 and
# 11.5 points of exact accuracy, cut as measured 0.0 and 0.7 (intervals of about 4 points either way). So
# `agecls.crop_evaluation.crop_for_run` measures where it can.
DEFAULT_MARGIN: Mapping[CropStyle, float] = MappingProxyType({"aligned": 0.0, "faces": 0.25, "plain": 0.40})
# How far the crop's middle lies below the box's, in its longer side (Adience's faces/: the same median).
DEFAULT_DROP: Mapping[CropStyle, float] = MappingProxyType({"aligned": 0.0, "faces": 0.05, "plain": 0.0})


@dataclass(frozen=True)
class FaceCrop:
    """The rule by which a model's faces are cut out.

    Args:
        style: "aligned" (five landmarks onto Adience's frontal template, by an affine map), "faces" (turned
            upright by the line of the eyes, the box widened) or "plain" (the box widened, nothing turned).
        margin: fraction of the face box's longer side L added above and below a square of that side, so that
            the region cut out is (1 + 2 margin) L high; it says nothing about the width.
        drop: how far the region's middle lies below the box's, in L; below 0 it lies above.
        aspect: width of the region over its height in the photograph, before it is squeezed to a square: 1
            adds the margin on the left and right too, 0.8 is for models trained on images of that shape
            that were squeezed likewise.

    For "aligned" margin and drop are 0 and the aspect is ignored: its template says all.
    Raises UsageError for another style, a margin that is not a number in [0, 3], a drop outside [-1, 1], an
    aspect outside [0.2, 5].

    >>> FaceCrop.from_dict({"style": "faces", "margin": 0.25}) == FaceCrop.of("faces")
    True
    """

    style: CropStyle
    margin: float
    drop: float = 0.0
    aspect: float = 1.0

    def __post_init__(self) -> None:
        _check_style(self.style)
        for name, low, high, unit in (
            ("margin", 0.0, MAX_MARGIN, " sides of the face box"),
            ("drop", -MAX_DROP, MAX_DROP, " sides of the face box"),
            ("aspect", 1 / MAX_ASPECT, MAX_ASPECT, ""),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise UsageError(f"face {name} must be a number, got {value!r}")
            if not (math.isfinite(value) and low <= value <= high):
                raise UsageError(f"face {name} must lie between {low:g} and {high:g}{unit}, got {value}")
            if self.style == "aligned" and name != "aspect" and value != 0:
                raise UsageError(
                    f"an aligned face has no {name} (its template sets the frame), got {value}; leave it "
                    "out, or choose faces or plain"
                )
            object.__setattr__(self, name, float(value))

    @classmethod
    def of(cls, style: CropStyle, margin: float | None = None) -> FaceCrop:
        """Return the rule of a style, with the style's own margin unless another is given."""
        _check_style(style)
        return cls(style, DEFAULT_MARGIN[style] if margin is None else margin, DEFAULT_DROP[style])

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FaceCrop:
        """Return the rule that `to_dict` wrote; UsageError for others.

        Without a drop it is the style's own, without an aspect a square.
        """
        needed, known = {"style", "margin"}, {"style", "margin", "drop", "aspect"}
        if not isinstance(values, Mapping) or not needed <= set(values) <= known:
            given = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise UsageError(f"face crop: the keys must be style, margin, drop and aspect, got {given}")
        _check_style(values["style"])
        drop = values.get("drop", DEFAULT_DROP[values["style"]])
        return cls(values["style"], values["margin"], drop, values.get("aspect", 1.0))

    def describe(self) -> str:
        """Return the rule in a few words.

        >>> FaceCrop.of("plain").describe()
        'plain, 40 % of the face box added on every side'
        >>> FaceCrop("plain", 0.3, aspect=0.8).describe()
        'plain, 30 % of the face box added above and below, 0.8 times as wide as high'
        """
        if self.style == "aligned":
            return "aligned to Adience's template"
        moved = (
            f", moved {100 * abs(self.drop):.3g} % {'down' if self.drop > 0 else 'up'}" if self.drop else ""
        )
        shape = f", {self.aspect:.3g} times as wide as high" if self.aspect != 1 else ""
        where = "above and below" if shape else "on every side"
        return f"{self.style}, {100 * self.margin:.3g} % of the face box added {where}{shape}{moved}"


def crop_of_run(run: Mapping[str, Any], style: str = "auto", margin: float | None = None) -> FaceCrop:
    """Return the crop that a run's training images were made with, as far as it is known.

    Args:
        run: the contents of run.json of `crl age train` or `cv`. A run on Adience records which of its two
            archives it read; a table of images says nothing, and is taken to be plain crops (whose margin
            `agecls.crop_evaluation.crop_for_run` can measure).
        style: aligned, faces or plain overrules the run; "auto" does not.
        margin: fraction of the box; None is the style's own.

    Raises UsageError for a style or margin that is not offered.
    """
    if style == "auto":
        counts = run.get("counts")
        layout = counts.get("layout") if isinstance(counts, Mapping) else None
        style = str(layout) if layout in ("faces", "aligned") else "plain"
    return FaceCrop.of(style, margin)  # type: ignore[arg-type]


def _check_style(style: object) -> None:
    if style not in STYLES:
        raise UsageError(f"face crop {style!r} is not offered; choose from {', '.join(STYLES)}")

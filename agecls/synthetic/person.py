"""Made-up people: how features grow and age, what makes somebody one person, what differs by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Colour = Sequence[float]

SKIN = ((255, 224, 196), (244, 205, 170), (228, 180, 140), (200, 147, 105), (160, 109, 74), (112, 74, 52))
HAIR = ((38, 28, 24), (74, 47, 30), (116, 74, 40), (176, 128, 66), (222, 186, 118), (150, 70, 36))
IRIS = ((70, 48, 32), (92, 66, 40), (86, 116, 78), (74, 112, 150), (110, 128, 138))
CLOTHES = (
    (196, 84, 74),
    (72, 110, 160),
    (92, 140, 96),
    (222, 178, 84),
    (120, 92, 148),
    (70, 74, 84),
    (226, 222, 214),
)
BACKDROP = (
    (196, 214, 226),
    (226, 212, 192),
    (190, 206, 180),
    (214, 196, 206),
    (150, 164, 176),
    (236, 232, 224),
    (120, 128, 124),
)
GREY = (206, 206, 204)

# How a feature changes from the first age group to the eighth; lengths in widths of the image.
GROWTH = {
    "half_width": (0.290, 0.272, 0.256, 0.243, 0.240, 0.243, 0.247, 0.241),
    "crown": (0.300, 0.298, 0.292, 0.286, 0.282, 0.280, 0.280, 0.276),
    "chin": (0.235, 0.252, 0.272, 0.293, 0.304, 0.306, 0.308, 0.312),
    "jaw": (0.02, 0.05, 0.10, 0.20, 0.32, 0.38, 0.44, 0.40),
    "eye_drop": (0.066, 0.046, 0.030, 0.014, 0.004, 0.000, -0.002, -0.004),
    "eye": (0.070, 0.064, 0.057, 0.050, 0.045, 0.042, 0.039, 0.035),
    "nose": (0.072, 0.086, 0.100, 0.116, 0.124, 0.128, 0.132, 0.140),
    "mouth": (0.062, 0.072, 0.080, 0.088, 0.092, 0.092, 0.091, 0.086),
    "lips": (0.9, 0.9, 0.95, 1.0, 1.0, 0.9, 0.75, 0.5),
    "brow": (0.12, 0.34, 0.52, 0.78, 1.0, 1.0, 0.95, 0.8),
    "hair": (0.16, 0.78, 1.0, 1.0, 1.0, 0.9, 0.72, 0.5),
    "blush": (1.0, 0.8, 0.58, 0.32, 0.14, 0.08, 0.06, 0.06),
    "wrinkles": (0.0, 0.0, 0.0, 0.0, 0.10, 0.38, 0.70, 1.0),
    "grey": (0.0, 0.0, 0.0, 0.0, 0.02, 0.18, 0.55, 0.96),
    "beard": (0.0, 0.0, 0.0, 0.25, 0.8, 1.0, 1.0, 1.0),
    "neck": (0.100, 0.108, 0.118, 0.134, 0.146, 0.152, 0.156, 0.148),
    "shoulders": (0.28, 0.31, 0.35, 0.41, 0.46, 0.47, 0.47, 0.45),
    "glasses": (0.0, 0.03, 0.08, 0.13, 0.18, 0.24, 0.42, 0.62),
}


@dataclass(frozen=True)
class Person:
    """What stays the same in every image of somebody.

    `maturity` is the age on the scale of group indices: 3.0 is the middle of the fourth group, 3.5 the border
    to the next. `woman` chooses between two sets of hair; the rest are factors around 1, offsets around 0, or
    colours (RGB, 0-255).
    """

    maturity: float
    woman: bool
    skin: Colour
    hair: Colour
    iris: Colour
    width: float
    eye_gap: float
    nose_width: float
    brow_tilt: float
    fringe: float
    hair_length: float
    parting: float
    receding: float
    beard: float
    glasses: bool
    freckles: float

    def feature(self, name: str) -> float:
        """Return the person's value of a row of `GROWTH`."""
        return float(np.interp(self.maturity, range(len(GROWTH[name])), GROWTH[name]))


def draw_person(rng: np.random.Generator, maturity: float) -> Person:
    """Return a person of this maturity (0 to 7), all else drawn at random."""
    woman = bool(rng.random() < 0.5)
    skin = _mixed(SKIN, rng)
    dark = sum(skin) < 420
    return Person(
        maturity=maturity,
        woman=woman,
        skin=skin,
        hair=_mixed(HAIR[:2] if dark else HAIR, rng),
        iris=_mixed(IRIS[:2] if dark else IRIS, rng),
        width=rng.normal(1, 0.045),
        eye_gap=rng.normal(1, 0.05),
        nose_width=rng.normal(1, 0.15),
        brow_tilt=rng.normal(0, 0.006),
        fringe=rng.uniform(0, 1),
        hair_length=rng.uniform(0.35, 1) if woman else rng.uniform(0, 0.15),
        parting=rng.uniform(-0.6, 0.6),
        receding=rng.uniform(0.1, 0.4) if woman else rng.uniform(0.5, 1.3),
        beard=0.0 if woman or rng.random() < 0.55 else rng.uniform(0.25, 1),
        glasses=bool(rng.random() < np.interp(maturity, range(8), GROWTH["glasses"])),
        freckles=float(rng.random() < 0.15) * rng.uniform(0.4, 1),
    )


@dataclass(frozen=True)
class Shot:
    """What differs between two images of one person; angles in degrees, lengths in image widths."""

    yaw: float
    tilt: float
    zoom: float
    shift: tuple[float, float]
    smile: float
    mouth_open: float
    gaze: float
    backdrop: tuple[Colour, Colour]
    clothes: Colour
    light: tuple[float, float]
    exposure: float
    warmth: float
    blur: float
    noise: float
    seed: int


def draw_shot(rng: np.random.Generator, zoom: float = 1.0) -> Shot:
    """Return an image's pose, expression, light and surroundings, drawn at random."""
    return Shot(
        yaw=float(rng.choice([0, 0, 0, 0, 0, -15, 15, -30, 30])),
        tilt=rng.normal(0, 5),
        zoom=zoom * rng.uniform(1.02, 1.2),
        shift=(rng.normal(0, 0.018), rng.normal(0, 0.018)),
        smile=rng.uniform(-0.15, 1),
        mouth_open=max(0.0, rng.normal(0, 0.5)),
        gaze=rng.normal(0, 0.25),
        backdrop=(_mixed(BACKDROP, rng), _mixed(BACKDROP, rng)),
        clothes=_mixed(CLOTHES, rng),
        light=(rng.normal(0, 0.16), rng.normal(0, 0.10)),
        exposure=rng.normal(0.98, 0.07),
        warmth=rng.normal(0, 0.025),
        blur=min(0.75, abs(rng.normal(0, 0.35))),
        noise=rng.uniform(1, 5),
        seed=int(rng.integers(2**31)),
    )


def _mixed(palette: Sequence[Colour], rng: np.random.Generator) -> Colour:
    """Return a colour between two neighbours of a palette, a little off."""
    place = rng.uniform(0, len(palette) - 1)
    below = int(place)
    one, other = np.array(palette[below], float), np.array(palette[min(below + 1, len(palette) - 1)], float)
    mixed = one + (place - below) * (other - one) + rng.normal(0, 5, 3)
    return tuple(np.clip(mixed, 0, 255).tolist())

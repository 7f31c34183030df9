"""Draw a made-up person as a small colour image, back to front, with nothing but polygons and lines."""

from __future__ import annotations

import math

import cv2
import numpy as np

from agecls.synthetic.drawing import Pencils, arc, blend, shade
from agecls.synthetic.person import GREY, Colour, Person, Shot

DARK, WHITE = (40.0, 30.0, 28.0), (250.0, 248.0, 244.0)


def render(person: Person, shot: Shot, image_size: int) -> np.ndarray:
    """Draw a person in a shot; returns RGB uint8 (image_size, image_size, 3)."""
    portrait = _Portrait(person, shot, 2 * image_size)
    portrait.draw_surroundings()
    portrait.draw_body()
    portrait.draw_head()
    portrait.draw_lines_of_age()
    portrait.draw_eyes()
    portrait.draw_nose()
    portrait.draw_beard()
    portrait.draw_mouth()
    portrait.draw_hair()
    portrait.draw_glasses()
    small = cv2.resize(portrait.canvas, (image_size, image_size), interpolation=cv2.INTER_AREA)
    return _exposed(small, shot)


class _Portrait(Pencils):
    """A canvas whose origin is the middle of the head."""

    def __init__(self, person: Person, shot: Shot, size: int) -> None:
        super().__init__(size, shot.tilt, shot.zoom, shot.shift)
        self.person, self.shot = person, shot
        feature = person.feature
        self.width = feature("half_width") * person.width
        self.crown, self.chin = feature("crown"), feature("chin")
        self.eye_y, self.eye = feature("eye_drop"), feature("eye")
        self.nose_y = self.eye_y + feature("nose")
        self.mouth_y = self.nose_y + 0.40 * (self.chin - self.nose_y)
        self.hair_colour = blend(person.hair, GREY, feature("grey"))
        self.fold_colour = shade(person.skin, 0.66)

    def _turned(self, x: float, depth: float) -> float:
        """Return where a feature `depth` in front of the head's axis appears when the head is turned."""
        yaw = math.radians(self.shot.yaw)
        return x * math.cos(yaw) + 0.8 * depth * math.sin(yaw)

    def draw_surroundings(self) -> None:
        top, bottom = (np.array(colour, dtype=np.float32) for colour in self.shot.backdrop)
        down = np.linspace(0, 1, self.size, dtype=np.float32)[:, None]
        self.canvas[:] = (top + (bottom - top) * down)[:, None, :].astype(np.uint8)
        self.glow(-0.35, -0.3, 0.28, shade(self.shot.backdrop[1], 1.15), 0.3)
        self.glow(0.42, 0.1, 0.22, shade(self.shot.backdrop[0], 0.8), 0.3)

    def draw_body(self) -> None:
        neck, shoulders = self.person.feature("neck"), self.person.feature("shoulders")
        self._draw_long_hair()
        base = self.chin + 0.11
        slope = np.array([(-shoulders, base + 0.09), (-neck * 1.3, base - 0.02), (neck * 1.3, base - 0.02)])
        rest = np.array([(shoulders, base + 0.09), (shoulders + 0.1, 0.9), (-shoulders - 0.1, 0.9)])
        self.fill(np.concatenate([slope, rest]), self.shot.clothes)
        sides = [(-neck, self.chin - 0.1), (neck, self.chin - 0.1), (neck * 1.1, base), (-neck * 1.1, base)]
        self.fill(np.array(sides), shade(self.person.skin, 0.84))
        self.fill(arc(0, base - 0.005, neck * 1.12, 0.045, 0, 180), shade(self.person.skin, 0.84))
        self.stroke(arc(0, base - 0.005, neck * 1.16, 0.05, 0, 180), shade(self.shot.clothes, 0.75), 0.012)

    def _draw_long_hair(self) -> None:
        length = self.person.hair_length * np.interp(self.person.maturity, (0.3, 1.5), (0.0, 1.0))
        if length < 0.3:
            return
        reach = self.chin * (0.2 + 1.05 * float(length))
        wide = self.width * (1.16 + 0.08 * float(length))
        locks = np.concatenate([arc(0, -0.02, wide, self.crown * 1.06, 180, 360), [(wide * 1.04, reach)]])
        ends = arc(0, reach, wide * 1.04, 0.035, 0, 180)
        self.fill(np.concatenate([locks, ends]), shade(self.hair_colour, 0.78))

    def draw_head(self) -> None:
        skin, width = self.person.skin, self.width
        age = self.person.maturity
        for side in (-1, 1):
            x = side * width * (1 - 0.1 * side * math.sin(math.radians(self.shot.yaw)))
            tall = 0.052 + 0.003 * age
            self.fill(arc(x, self.eye_y + 0.04, 0.030, tall), shade(skin, 0.90))
            self.fill(arc(x, self.eye_y + 0.045, 0.014, tall * 0.55), shade(skin, 0.74))
        self.fill(self._head_outline(1.0), skin)
        self.stroke(self._head_outline(1.0)[:29], shade(skin, 0.78), 0.008, 0.7)
        blush = self.person.feature("blush")
        rosy = blend(skin, (232, 96, 88), 0.5)
        for side in (-1, 1):
            x = self._turned(side * width * 0.58, 0.10)
            self.glow(x, self.nose_y - 0.002, 0.062, rosy, 0.15 + 0.62 * blush)
        self._draw_freckles()

    def _head_outline(self, scale: float) -> np.ndarray:
        """Return the head's outline, the lower half first, float (n, 2)."""
        jaw = self.person.feature("jaw") * (0.6 if self.person.woman else 1.2)
        chubby = 0.10 * max(0.0, 1 - self.person.maturity / 3)
        angle = np.radians(np.linspace(0, 180, 29))
        cos, sin = np.cos(angle), np.sin(angle)
        taper = 1 - 0.16 * sin * (1 - 6 * chubby)
        reach = np.abs(cos) ** (1 - 0.35 * jaw) * taper + chubby * np.sin(2 * angle) ** 2
        lower = np.stack([self.width * np.sign(cos) * reach, self.chin * sin], axis=1)
        upper = arc(0, 0, self.width, self.crown, 180, 360)
        return np.concatenate([lower, upper]) * scale

    def _draw_freckles(self) -> None:
        rng = np.random.default_rng(round(self.person.width * 1e6))
        spots = 1.0 if self.person.maturity > 6.3 else 0.0
        count = round(14 * self.person.freckles + 5 * spots)
        for x, y in rng.uniform((-0.62, 0.02), (0.62, 0.14), (count, 2)):
            self.fill(arc(self._turned(x * self.width, 0.1), y, 0.006, 0.005), self.fold_colour, 0.55)

    def draw_lines_of_age(self) -> None:
        depth = self.person.feature("wrinkles")
        if depth < 0.04:
            return
        colour, width = self.fold_colour, 0.009
        for line in range(3):
            y = -self.crown * (0.42 + 0.13 * line)
            span = self.width * (0.55 - 0.07 * line)
            self.stroke(
                arc(self._turned(0, 0.1), y + 0.02, span, 0.022, 205, 335), colour, width, 0.62 * depth
            )
        for side in (-1, 1):
            eye = self._eye_x(side)
            self.stroke(
                arc(eye, self.eye_y + 0.014, self.eye * 1.1, self.eye * 0.95, 25, 155),
                colour,
                width,
                0.75 * depth,
            )
            for lift in (-0.024, 0.0, 0.024):
                start = np.array([eye + side * self.eye * 1.35, self.eye_y + lift * 0.35])
                self.stroke(
                    np.stack([start, start + np.array([side * 0.034, lift])]), colour, width, 0.6 * depth
                )
            fold_x = self._turned(side * 0.036 * self.person.nose_width, 0.13)
            mouth_x = self._turned(side * (self.person.feature("mouth") + 0.022), 0.11)
            middle = ((fold_x + mouth_x) / 2 + side * 0.016, (self.nose_y + self.mouth_y) / 2 - 0.006)
            fold = np.array([(fold_x, self.nose_y - 0.012), middle, (mouth_x, self.mouth_y + 0.008)])
            self.stroke(fold, colour, width * 1.2, 0.85 * depth)
            jowl = np.array([(mouth_x, self.mouth_y + 0.02), (mouth_x + side * 0.006, self.mouth_y + 0.062)])
            self.stroke(jowl, colour, width, 0.5 * depth)

    def _eye_x(self, side: int) -> float:
        return self._turned(side * self.width * 0.43 * self.person.eye_gap, 0.11)

    def draw_eyes(self) -> None:
        skin, feature = self.person.skin, self.person.feature
        droop = 0.22 * feature("wrinkles")
        for side in (-1, 1):
            x, y, half = self._eye_x(side), self.eye_y, self.eye
            tall = half * (0.78 - 0.07 * min(self.person.maturity, 4) - droop)
            self.glow(x, y, half * 1.25, shade(skin, 0.86), 0.5)
            self.fill(arc(x, y, half, tall), WHITE)
            iris = min(half * 0.60, tall * 1.02)
            look = x + self.shot.gaze * half * 0.5
            self.fill(arc(look, y, iris, iris), self.person.iris)
            self.fill(arc(look, y, iris * 0.55, iris * 0.55), DARK)
            self.fill(arc(look - iris * 0.3, y - iris * 0.35, iris * 0.26, iris * 0.26), WHITE)
            lash = 0.014 if self.person.woman and 2.5 < self.person.maturity < 6.5 else 0.009
            self.stroke(arc(x, y, half * 1.04, tall * 1.06, 185, 355), shade(self.fold_colour, 0.55), lash)
            self._draw_brow(side, x, y - tall - 0.030 - 0.012 * feature("brow"))

    def _draw_brow(self, side: int, x: float, y: float) -> None:
        weight = self.person.feature("brow")
        inner, outer = x - side * self.eye * 0.85, x + side * self.eye * 1.15
        arch = 0.012 + self.person.brow_tilt
        line = np.array([(inner, y + 0.006), (x, y - arch), (outer, y + 0.008)])
        thick = 0.007 + 0.014 * weight * (0.7 if self.person.woman else 1.0)
        self.stroke(line, shade(self.hair_colour, 0.85), thick, 0.25 + 0.7 * weight)

    def draw_nose(self) -> None:
        length, age = self.person.feature("nose"), self.person.maturity
        wide = (0.024 + 0.0025 * age) * self.person.nose_width
        tip, root = self._turned(0, 0.16), self._turned(0, 0.12)
        shadow = shade(self.person.skin, 0.80)
        side = 1 if self.shot.light[0] < 0 else -1
        bridge = [
            (root + side * 0.012, self.nose_y - length * 0.85),
            (tip + side * wide * 0.8, self.nose_y - 0.01),
        ]
        self.stroke(np.array(bridge), shadow, 0.013, min(0.12 + 0.12 * age, 0.8))
        self.fill(arc(tip, self.nose_y - 0.012, wide, 0.020), shade(self.person.skin, 1.04), 0.8)
        self.stroke(arc(tip, self.nose_y - 0.010, wide, 0.016, 10, 170), shade(shadow, 0.8), 0.010, 0.9)

    def draw_beard(self) -> None:
        strength = self.person.beard * self.person.feature("beard")
        if strength < 0.08:
            return
        outline = self._head_outline(1.0)[2:27]
        x = self._turned(0, 0.10)
        mask = np.concatenate([outline, arc(x, self.mouth_y - 0.01, self.width * 0.72, 0.055, 200, 340)])
        self.fill(mask, shade(self.hair_colour, 0.95), 0.2 + 0.7 * strength)
        self.stroke(
            arc(x, self.mouth_y - 0.006, 0.07, 0.032, 195, 345),
            self.hair_colour,
            0.022,
            0.3 + 0.6 * strength,
        )

    def draw_mouth(self) -> None:
        half = self.person.feature("mouth") * (1 + 0.12 * self.shot.smile)
        x, y = self._turned(0, 0.12), self.mouth_y
        lip = blend(self.person.skin, (196, 70, 78), 0.62 if self.person.woman else 0.42)
        full = 0.017 * self.person.feature("lips")
        bend = 0.030 * self.shot.smile
        across = np.linspace(-1, 1, 11)
        line = np.stack([x + half * across, y + bend * (0.5 - across**2)], axis=1)
        gap = 0.030 * self.shot.mouth_open * (1 - across**2)[:, None] * (0.0, 1.0)
        swell = (1 - across**2)[:, None] * (0.0, full)
        self.fill(np.concatenate([line - swell * 0.8, (line + gap + swell * 1.3)[::-1]]), lip)
        self.fill(np.concatenate([line, (line + gap)[::-1]]), (110, 40, 44))
        if self.shot.mouth_open > 0.5 and self.person.maturity > 0.6:
            self.fill(np.concatenate([line[2:9], (line + gap * 0.5)[2:9][::-1]]), WHITE)
        self.stroke(line, shade(lip, 0.55), 0.008, 0.9)
        self.stroke(arc(x, y + full * 1.6 + 0.03, half * 0.5, 0.012, 20, 160), self.fold_colour, 0.007, 0.4)

    def draw_hair(self) -> None:
        person, amount = self.person, self.person.feature("hair")
        loss = min(1.0, (1 - amount) * (person.receding * 1.3 if person.maturity > 3 else 1.0))
        colour, full = self.hair_colour, 1 - loss
        outer = arc(0, -0.01, self.width * (1.02 + 0.07 * full), self.crown * (1.02 + 0.13 * full), 172, 368)
        low = -self.crown * (0.40 + 0.24 * (1 - person.fringe))
        top = low + (-self.crown * 1.02 - low) * loss**0.7
        across = np.linspace(1, -1, 25)
        temple = self.eye_y - 0.02 - 0.08 * loss * (person.maturity < 3)
        rise = np.abs(across) ** (5 - 2.5 * full)
        corners = 0.10 * loss * np.sin(np.pi * np.abs(across)) ** 2 * (person.maturity > 3)
        wave = 0.012 * full * np.sin(9 * across + 6 * person.parting)
        lift = 0.05 * full * np.exp(-(((across - person.parting) / 0.3) ** 2))
        line = np.stack(
            [self.width * 1.0 * across, top + (temple - top) * rise - corners - lift + wave], axis=1
        )
        thin = 0.6 if person.maturity < 0.6 else 1.0
        self.fill(np.concatenate([outer, line]), colour, thin * min(1.0, 0.45 + full))
        self._draw_strands(colour, full)

    def _draw_strands(self, colour: Colour, full: float) -> None:
        for place in np.linspace(-0.75, 0.75, 6):
            start = np.array(
                [self.width * place, -self.crown * (1.02 + 0.05 * full) * math.sqrt(1 - 0.8 * place**2)]
            )
            fall = np.array([0.05 * np.sign(place - self.person.parting), 0.10 * full + 0.02])
            tone = 1.25 if round(place * 10) % 2 else 0.72
            self.stroke(
                np.stack([start, start + fall * (0.4, 0.5), start + fall]),
                shade(colour, tone),
                0.008,
                0.5 * full + 0.1,
            )
        if self.person.maturity < 0.7:
            curl = arc(0.01, -self.crown - 0.018, 0.022, 0.026, 90, 380)
            self.stroke(curl, colour, 0.011, 0.85)

    def draw_glasses(self) -> None:
        if not self.person.glasses:
            return
        frame = shade(self.person.iris, 0.5)
        lens = max(self.eye * 1.45, 0.060)
        for side in (-1, 1):
            x = self._eye_x(side)
            self.fill(arc(x, self.eye_y + 0.004, lens, lens * 0.86), (226, 236, 244), 0.16)
            self.stroke(arc(x, self.eye_y + 0.004, lens, lens * 0.86), frame, 0.011)
            arm = np.array([(x + side * lens, self.eye_y - 0.01), (side * self.width, self.eye_y - 0.012)])
            self.stroke(arm, frame, 0.011)
        left, right = self._eye_x(-1) + lens, self._eye_x(1) - lens
        self.stroke(np.array([(left, self.eye_y), (right, self.eye_y)]), frame, 0.011)


def _exposed(image: np.ndarray, shot: Shot) -> np.ndarray:
    """Return the image after light from one side, exposure, blur and grain."""
    if shot.blur > 0.25:
        image = cv2.GaussianBlur(image, (0, 0), shot.blur * len(image) / 64)
    across = np.linspace(-1, 1, len(image), dtype=np.float32)
    light = shot.exposure * (1 + shot.light[0] * across[None, :] + shot.light[1] * across[:, None])
    tint = np.array([1 + shot.warmth, 1, 1 - shot.warmth], dtype=np.float32)
    grain = np.random.default_rng(shot.seed).standard_normal(image.shape, dtype=np.float32) * shot.noise
    return np.clip(image * (light[..., None] * tint) + grain, 0, 255).astype(np.uint8)

"""Line charts and curves as inline SVG: crisp at any size, in the colours of the page, read out in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from apps.demo.text import safe
from finetune.experiments.exported.number_line import NumberLine, middle

WIDTH, HEIGHT = 420, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 366, 34, 272  # the plot's edges; labels stand to the right
_LABEL_GAP = 16
_STEPS = 4  # between the labels below a curve


@dataclass(frozen=True)
class ChartLine:
    """One line: `name` picks its colour and dashes in the style sheet; a `label` stands at its right end."""

    name: str
    label: str
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Chart:
    """A chart's words and scales.

    Args:
        key: the start of its element ids, unique on the page.
        title: what it shows.
        description: what the lines do, for those who cannot see them.
        x_label: SVG text of the horizontal axis.
        y_label: SVG text of the vertical axis, with its unit.
        x_ticks: numbers along the horizontal axis, the first and the last at its ends.
        y_ticks: the same for the vertical axis.
    """

    key: str
    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def draw(self, lines: Sequence[ChartLine]) -> str:
        """Return the chart as one `<svg>` element; what lies outside the scales is cut off."""
        key = escape(self.key)
        return (
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{key}-title {key}-desc">'
            f'<title id="{key}-title">{escape(self.title)}</title>'
            f'<desc id="{key}-desc">{escape(self.description)}</desc>'
            f'<clipPath id="{key}-clip"><rect x="{_LEFT}" y="{_TOP}" width="{_RIGHT - _LEFT}" '
            f'height="{_BOTTOM - _TOP}"/></clipPath>'
            f'<text class="heading" x="0" y="15">{escape(self.title)}</text>'
            f"{self._grid()}{self._axis_labels()}"
            f'<g clip-path="url(#{key}-clip)">{"".join(self._path(line) for line in lines)}</g>'
            f"{self._line_labels(lines)}</svg>"
        )

    def _x(self, value: float) -> float:
        first, last = self.x_ticks[0], self.x_ticks[-1]
        return _LEFT + (value - first) / (last - first) * (_RIGHT - _LEFT)

    def _y(self, value: float) -> float:
        first, last = self.y_ticks[0], self.y_ticks[-1]
        return _BOTTOM - (value - first) / (last - first) * (_BOTTOM - _TOP)

    def _grid(self) -> str:
        marks = []
        for tick in self.y_ticks:
            kind = "zero" if tick == 0 else "grid"
            y = self._y(tick)
            marks.append(f'<path class="{kind}" d="M{_LEFT} {y:.1f}H{_RIGHT}"/>')
            marks.append(
                f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>'
            )
        for tick in self.x_ticks:
            x = self._x(tick)
            marks.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{_BOTTOM}"/>')
            marks.append(
                f'<text class="tick" x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">'
                f"{_number(tick)}</text>"
            )
        return "".join(marks)

    def _axis_labels(self) -> str:
        middle_x, middle_y = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
        return (
            f'<text x="{middle_x}" y="{_BOTTOM + 40}" text-anchor="middle">{self.x_label}</text>'
            f'<text transform="translate(12 {middle_y}) rotate(-90)" text-anchor="middle">'
            f"{self.y_label}</text>"
        )

    def _path(self, line: ChartLine) -> str:
        low, high = 2 * self.y_ticks[0] - self.y_ticks[-1], 2 * self.y_ticks[-1] - self.y_ticks[0]
        pairs = zip(line.x.tolist(), np.clip(line.y, low, high).tolist(), strict=True)
        points = " ".join(f"{self._x(x):.1f},{self._y(y):.1f}" for x, y in pairs)
        return f'<polyline class="line {escape(line.name)}" points="{points}"/>'

    def _line_labels(self, lines: Sequence[ChartLine]) -> str:
        lines = [line for line in lines if line.label]
        # Placed before they are cut off at the edges, so that lines that end together keep their order.
        ends = [float(self._y(float(line.y[-1]))) for line in lines]
        places = spread(ends, _LABEL_GAP, _TOP + 4, _BOTTOM - 4)
        marks = []
        for line, end, place in zip(lines, np.clip(ends, _TOP, _BOTTOM), places, strict=True):
            marks.append(
                f'<path class="line {escape(line.name)} leader" '
                f'd="M{_RIGHT} {end:.1f}L{_RIGHT + 10} {place:.1f}"/>'
                f'<text class="label" x="{_RIGHT + 14}" y="{place + 4:.1f}">{escape(line.label)}</text>'
            )
        return "".join(marks)


def curve_html(
    line: NumberLine,
    names: Sequence[str],
    probs: np.ndarray,
    inside: np.ndarray | None,
    true: int | None = None,
) -> str:
    """Return the curve of probs (K,) over the classes: its median marked, its range shaded.

    Args:
        line: the numbers that the classes stand for.
        names: the K classes, as they are shown.
        probs: their probabilities.
        inside: which are in the set, bool (K,); without a set the middle of the probability is shaded.
        true: the true class, where it is known.
    """
    low, high = middle(probs) if inside is None else _ends(inside)
    last, top = len(names) - 1, float(probs.max()) * 1.05
    said = int(np.searchsorted(line.values, line.median(probs[None])[0]))
    points = " ".join(f"{place:g},{100 * (1 - p / top):.2f}" for place, p in enumerate(probs.tolist()))
    marks = "" if true is None else f'<path class="true" d="M{true} 0V100"/>'
    what = "the set" if inside is not None else "the middle of the probability"
    words = (
        f"Probability by {line.name}: highest at {names[int(probs.argmax())]}, median {names[said]}, "
        f"{what} from {names[low]} to {names[high]}"
    )
    ticks = dict.fromkeys(round(step * last / _STEPS) for step in range(_STEPS + 1))
    labels = "".join(f'<span style="left:{100 * k / last:.2f}%">{safe(names[k])}</span>' for k in ticks)
    return (
        f'<figure class="crl-curve"><svg viewBox="-0.5 0 {last + 1} 100" preserveAspectRatio="none" '
        f'role="img" aria-label="{safe(words)}">'
        f'<rect class="range" x="{low - 0.5:g}" y="0" width="{high - low + 1}" height="100"/>'
        f'<polygon class="area" points="0,100 {points} {last},100"/>'
        f'<polyline class="edge" points="{points}"/>{marks}'
        f'<path class="at" d="M{said} 0V100"/></svg>'
        f'<figcaption aria-hidden="true">{labels}</figcaption></figure>'
    )


def _ends(inside: np.ndarray) -> tuple[int, int]:
    places = np.flatnonzero(inside)
    return int(places[0]), int(places[-1])


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return places at least `gap` apart within [low, high], in the same order, near where they were.

    >>> spread([10, 10, 50], gap=8, low=0, high=50)
    [10, 18, 50]
    >>> spread([48, 49], gap=8, low=0, high=50)
    [42, 50]
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = list(places)
    floor = low
    for index in order:
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved


def scale(low: float, high: float, steps: int = 6) -> list[float]:
    """Return round numbers, equally far apart, from at most `low` to at least `high`, about `steps` of them.

    >>> scale(0, 1.07)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2]
    """
    rough = (high - low) / steps
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(float(power * factor) for factor in (1, 2, 5, 10) if power * factor >= rough * 0.85)
    first, last = int(np.floor(low / step + 1e-9)), int(np.ceil(high / step - 1e-9))
    return [round(number * step, 10) for number in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")

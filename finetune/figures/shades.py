"""One hue from light to dark for a number from 0 to 1, and the ink that reads on it: plain arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

# ColorBrewer's nine Blues (Brewer, Harrower; Apache 2.0), the anchors of matplotlib's scale of that name.
BLUES = (
    "#f7fbff",
    "#deebf7",
    "#c6dbef",
    "#9ecae1",
    "#6baed6",
    "#4292c6",
    "#2171b5",
    "#08519c",
    "#08306b",
)
BLACK = "#000000"
READABLE = 4.5  # WCAG 2.2, success criterion 1.4.3: least contrast of text on its background


def shade(scale: Sequence[str], share: float) -> str:
    """Return the colour "#rrggbb" at `share` (0 to 1) of a scale of evenly spaced anchors.

    >>> shade(("#000000", "#ffffff"), 0.5), shade(BLUES, 1.0)
    ('#808080', '#08306b')
    """
    place = min(max(share, 0.0), 1.0) * (len(scale) - 1)
    low = min(int(place), len(scale) - 2)
    pairs = zip(_channels(scale[low]), _channels(scale[low + 1]), strict=True)
    return "#" + "".join(f"{round(start + (end - start) * (place - low)):02x}" for start, end in pairs)


def _channels(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return red, green, blue


def luminance(colour: str) -> float:
    """Return the relative luminance, 0 for black to 1 for white, of "#rrggbb" (WCAG 2.2).

    >>> luminance("#ffffff"), luminance("#000000")
    (1.0, 0.0)
    """
    shares = [channel / 255 for channel in _channels(colour)]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours "#rrggbb", from 1 (the same) to 21 (black and white).

    >>> contrast("#ffffff", "#000000")
    21.0
    """
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def readable_ink(paper: str, inks: Sequence[str]) -> str:
    """Return the first of `inks` that reads on `paper`; where none does, black or white, of which one must.

    >>> readable_ink("#ffffff", ["#eeeeee", "#333333"])
    '#333333'
    """
    for ink in inks:
        if contrast(ink, paper) >= READABLE:
            return ink
    return max((BLACK, "#ffffff"), key=lambda ink: contrast(ink, paper))

"""Titles of arms brought to the room that a picture has for them: what tells them apart stays."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.figures import canvas


def short_titles(titles: Sequence[str], width: float, size: float) -> list[str]:
    """Return drawable titles of one or two lines; different ones stay different.

    A title that is too wide goes onto two lines, and only what is too wide then is cut.

    Args:
        titles: of all arms of a picture.
        width: what a line has, in inches.
        size: of the letters, in points.

    >>> short_titles(["CRL", "CE, rate matched to CRL (mean factor)"], 1.95, 8.0)
    ['CRL', 'CE, rate matched to CRL\\n(mean factor)']
    """
    parts = [_parts(title) if canvas.text_width(title, size) > width else (title, "") for title in titles]
    first, second = (canvas.distinct_fits([part[side] for part in parts], width, size) for side in (0, 1))
    return [canvas.drawable(f"{one}\n{two}" if two else one) for one, two in zip(first, second, strict=True)]


def _parts(title: str) -> tuple[str, str]:
    """Return the two lines of a title; the second is empty where there is no place to break it."""
    for mark, keeps in ((", label smoothing", 2), (" (", 1), (", ", 2)):
        place = title.find(mark)
        if place > 0:
            return title[: place + keeps].rstrip(), title[place + keeps :]
    return title, ""

"""The scale is matplotlib's, contrast is WCAG's, and an ink is found for every paper."""

from __future__ import annotations

import pytest

from finetune.figures.shades import BLUES, READABLE, contrast, luminance, readable_ink, shade


def test_blues_are_matplotlibs():
    import matplotlib as mpl

    theirs = mpl.colormaps["Blues"]
    for index in range(256):
        red, green, blue = (round(255 * channel) for channel in theirs(index / 255)[:3])
        ours = shade(BLUES, index / 255)
        found = (int(ours[1:3], 16), int(ours[3:5], 16), int(ours[5:7], 16))
        assert max(abs(a - b) for a, b in zip(found, (red, green, blue), strict=True)) <= 1


def test_shares_outside_the_scale_are_its_ends():
    assert shade(BLUES, -3) == BLUES[0]
    assert shade(BLUES, 7) == BLUES[-1]
    assert [shade(BLUES, index / 8) for index in range(9)] == list(BLUES)


@pytest.mark.parametrize(("colour", "ratio"), [("#777777", 4.478), ("#767676", 4.542), ("#ff0000", 3.998)])
def test_contrast_to_white_is_that_of_published_pairs(colour: str, ratio: float):
    assert contrast(colour, "#ffffff") == pytest.approx(ratio, abs=5e-4)
    assert contrast("#ffffff", colour) == contrast(colour, "#ffffff")


def test_luminance_uses_the_straight_part_for_dark_colours():
    assert luminance("#0a0a0a") == pytest.approx(10 / 255 / 12.92)


def test_where_no_ink_reads_black_or_white_does():
    greys = [f"#{level:02x}{level:02x}{level:02x}" for level in range(256)]
    for grey in greys:
        assert contrast(readable_ink(grey, ["#888888"]), grey) >= READABLE

"""The common look: text that cannot break an image, same input same bytes, no trace left behind."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune.errors import ResourceError
from finetune.figures import canvas
from finetune.figures.canvas import BLUES, READABLE, contrast, luminance, readable_ink, shade
from tests.finetune.drawing import pixels_of


def test_signs_that_the_font_lacks_become_question_marks():
    assert canvas.drawable(
        "naïve 猫 \N{GRINNING FACE}\t\u202e"
    ) == "naïve ? ???" or "猫" not in canvas.drawable("猫")
    assert canvas.drawable("two\nlines $x_1$ ✓") == "two\nlines $x_1$ ✓"


def test_a_title_of_odd_signs_is_drawn_without_a_warning(tmp_path: Path):
    with canvas.new_figure(tmp_path / "deep" / "er" / "a.png", 3.0, "$\\frac{ 猫 %", "sub_$title"):
        pass
    pixels_of(tmp_path / "deep" / "er" / "a.png")


def test_the_same_picture_has_the_same_bytes(tmp_path: Path):
    for name in ("a.png", "b.png"):
        with canvas.new_figure(tmp_path / name, 3.0, "same") as figure:
            figure.add_subplot().plot([1, 2], [3, 4])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_figures_of_several_threads_are_drawn_alike_and_leave_no_trace(tmp_path: Path):
    import matplotlib as mpl

    before = dict(mpl.rcParams)

    def draw(number: int) -> bytes:
        with canvas.new_figure(tmp_path / f"{number}.png", 2.0, "same") as figure:
            figure.add_subplot().plot([1, 2], [3, 4])
        return (tmp_path / f"{number}.png").read_bytes()

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(draw, range(12)))) == 1
    assert dict(mpl.rcParams) == before


def test_shorten_keeps_both_ends_and_the_limit():
    assert canvas.shorten("short", 5) == "short"
    assert canvas.shorten("abcdefghijk.jpg", 10) == "abcd…k.jpg"


def test_text_is_measured_in_inches_and_fitted_to_a_width():
    wide, bold = canvas.text_width("probability", 10), canvas.text_width("probability", 10, bold=True)
    assert 0.6 < wide < bold < 1.1  # eleven letters of ten points, 10/72 inch high
    assert canvas.text_width("probability\nx", 10) == wide
    assert canvas.fit("probability", wide, 10) == "probability"
    cut = canvas.fit("a very long name of a model", 1.0, 10)
    assert cut.startswith("a v")
    assert "…" in cut
    assert canvas.text_width(cut, 10) <= 1.0


def test_ink_reads_on_every_step_of_the_scale():
    steps = [index / 500 for index in range(501)]
    assert min(contrast(canvas.ink_on(step), shade(BLUES, step)) for step in steps) >= READABLE
    assert canvas.ink_on(0) == canvas.INK
    assert canvas.ink_on(1) == canvas.PAPER
    assert contrast(canvas.MUTED, shade(BLUES, 0.005)) >= READABLE


def test_a_picture_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def half(stream, pixels, **options):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr("matplotlib.image.imsave", half)
    with pytest.raises(ResourceError), canvas.new_figure(tmp_path / "a.png", 3.0, "x"):
        pass
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


def test_importing_canvas_imports_no_matplotlib():
    code = "import sys, finetune.figures.canvas, finetune.figures.heat_map; "
    code += "sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


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

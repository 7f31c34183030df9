"""Where two results disagree: images that only one of them predicts correctly, and softmax heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finegrained.figures.class_heat_map import draw_class_heat_map
from finegrained.figures.image_grid import Line, Strip, Tile, answer_line, draw_grid, show_file
from finetune.experiments.compare.disagreements import draw_both
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.figures import canvas
from finetune.figures.gallery import short_names
from finetune.figures.markdown import Picture
from finetune.figures.selection import choose_disagreements
from finetune.images.class_names import display_name

PICKED = (
    "Chosen by rule, not by hand: per true class the image on which the two probabilities of the true class "
    "differ most, of at most eight classes. Single images show what kind of image is concerned, not which "
    "result is better."
)
TELLING = (
    "Chosen by rule, not by hand: per true class, of at most eight classes, the image on which the two "
    "differ most among those that only one predicts correctly (where the data have up to eight classes, else "
    "among those that both predict correctly). Columns: their classes, and what either result predicts."
)
SIDE, COLUMNS = 1.36, 20  # inches of a gallery image; columns of the heat maps


def draw_comparison(a: Result, b: Result, names: Sequence[str], out: Path) -> list[Picture]:
    """Draw the gallery of disagreements and the heat maps of the most telling images under `out`."""
    called = (names[0], names[1])

    def gallery(files: Sequence[Path], first: Predictions, second: Predictions, file: Path) -> None:
        draw_disagreements(files, first, second, called, file)

    def heat_maps(files: Sequence[Path], first: Predictions, second: Predictions, file: Path) -> None:
        probs = dict(zip(called, (first.probs, second.probs), strict=True))
        columns = telling_columns(first, second, range(len(first)))
        subtitle = "per true class, the image on which the two differ most, only one correct if any"
        draw_class_heat_map(files, first.target, probs, a.class_names, columns, file, subtitle=subtitle)

    return draw_both(a, b, out, gallery=gallery, heat_maps=heat_maps, picked=PICKED, telling=TELLING)


def telling_columns(first: Predictions, second: Predictions, rows: Sequence[int]) -> list[int]:
    """Return the classes that get a column: of each row its true one and what either result says, 20 at most.

    All classes where there are no more than eight, in official order.
    """
    classes = len(first.class_names)
    if classes <= 8:
        return list(range(classes))
    seen: dict[int, None] = {}
    for row in rows:
        seen |= dict.fromkeys(int(side[row]) for side in (first.target, first.preds, second.preds))
    return list(seen)[:COLUMNS]


def draw_disagreements(
    files: Sequence[Path], first: Predictions, second: Predictions, names: tuple[str, str], out: Path
) -> Path:
    """Draw images that both, only the first or only the second predict correctly, with both predictions.

    Args:
        files: (N,) image files in the order of the predictions.
        first, second: the two results' predictions of the same images in the same order.
        names: what the two results are called.
        out: the PNG to write.

    Returns:
        `out`.
    """
    short = short_names(names)
    strips = []
    for kind in choose_disagreements(first.target, first.probs, second.probs):
        rows = [row for row in kind.picks if row is not None]
        tiles = [_tile(files[row], row, first, second, short) for row in rows]
        strips.append(Strip(tiles or [None], heading=kind.title(short)))
    title = f"Where {short[0]} and {short[1]} disagree: {canvas.count_text(len(files), 'test image')}"
    subtitle = (
        "per true class, the image on which the two probabilities of the true class differ most, of at most "
        "8 classes\nabove it the true class, below it both predictions"
    )
    spelled = [f"{mark} = {name}" for mark, name in zip(short, names, strict=True) if name.upper() != mark]
    subtitle += f"\n{', '.join(spelled)}" if spelled else ""
    return draw_grid(out, title, subtitle, strips, side=SIDE)


def _tile(file: Path, row: int, first: Predictions, second: Predictions, short: tuple[str, str]) -> Tile:
    names, truth = first.class_names, int(first.target[row])
    answers = []
    for mark, side in zip(short, (first, second), strict=True):
        said = int(side.preds[row])
        words = answer_line(display_name(names[said]), float(side.probs[row, said]), said == truth, mark)
        answers.append(words)
    return Tile(show_file(file), (Line(display_name(names[truth]), bold=True),), tuple(answers))

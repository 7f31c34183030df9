"""Draw docs/images/architecture.svg: the rooms and the direction of imports. Run it after a room is added.

python docs/draw_architecture.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

FILE = Path(__file__).parent / "images" / "architecture.svg"

# The rooms from top to bottom, those beside each other in one row; each with what it does and its sub-rooms.
TOP = (("apps", "programs", ("demo", "doctor", "evaluate", "export", "heatmap", "predict", "runtime")),)
TASKS = (
    (
        "agecls",
        "age groups of faces",
        ("audit", "configs", "data", "exported", "faces", "report", "synthetic"),
    ),
    (
        "finegrained",
        "fine-grained categories",
        ("configs", "cost", "data", "exported", "figures", "heads", "synthetic"),
    ),
    ("generalcls", "general data sets, small networks", ("configs", "data", "networks", "parallel")),
)
# The floors of finetune from top to bottom; the rooms of one floor do not import each other.
FLOORS = (
    (
        (
            "experiments",
            "one experiment, whatever the task",
            ("compare", "exported", "probabilities", "records", "study", "tune"),
        ),
    ),
    (("training", "configuration, objective, loop, checkpoints", ("frozen", "optimization")),),
    (("models", "backbones, heads, the classifier, saved models", ("heads",)),),
    (("figures", "heat maps, galleries, curves, Markdown", ()),),
    (
        ("images", "files, manifest, pixels, batches", ("augmentation", "cache", "loading", "streams")),
        ("metrics", "scores, intervals, tests", ()),
    ),
    (("cli", "commands, options, console", ()),),
    (("runs", "what lies in a run folder", ()),),
    (("errors, seeding", "two files that everything may import", ()),),
)
BOTTOM = (("core_losses", "formulas: tensors in, a loss out", ("imports PyTorch alone",)),)

WIDTH, MARGIN, GAP = 960, 24, 16
HEIGHT_OF_ROOM, HEIGHT_OF_FLOOR, HEIGHT_OF_LINE, ARROW = 74, 40, 16, 34
LETTER = 6.2  # the mean width of a small letter
COLOURS = {"apps": "#fde9d0", "task": "#dcebfa", "finetune": "#e4f2e4", "core_losses": "#f3e3f3"}
LINE = "#4a5560"

Room = tuple[str, str, tuple[str, ...]]


def box(x: float, y: float, width: float, height: float, fill: str) -> str:
    """Return a rectangle with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="{fill}" '
        f'stroke="{LINE}" stroke-width="1.2"/>'
    )


def text(x: float, y: float, words: str, size: int = 14, style: str = "") -> str:
    """Return a line of text that starts at (x, y)."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" {style}>{escape(words)}</text>'


def arrow(x: float, y: float) -> str:
    """Return an arrow that points down over the gap below y."""
    end = y + ARROW - 4
    return (
        f'<path d="M{x:g} {y + 4:g} V{end - 7:g}" stroke="{LINE}" stroke-width="2" fill="none"/>'
        f'<path d="M{x - 5:g} {end - 8:g} L{x + 5:g} {end - 8:g} L{x:g} {end:g} Z" fill="{LINE}"/>'
    )


def wrapped(names: Sequence[str], width: float) -> list[str]:
    """Return names joined by dots, in as many lines as a box of this width needs."""
    lines: list[str] = []
    for name in names:
        joined = f"{lines[-1]} · {name}" if lines else name
        if lines and len(joined) * LETTER <= width - 24:
            lines[-1] = joined
        else:
            lines.append(name)
    return lines


def row(rooms: Sequence[Room], y: float, colour: str) -> tuple[list[str], float]:
    """Return the rooms of one row, of equal width, and where it ends."""
    width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
    lines = [wrapped(inside, width) for _, _, inside in rooms]
    height = HEIGHT_OF_ROOM + HEIGHT_OF_LINE * (max(map(len, lines)) - 1)
    parts = []
    for place, (name, about, _) in enumerate(rooms):
        x = MARGIN + place * (width + GAP)
        parts += [box(x, y, width, height, COLOURS[colour])]
        parts += [text(x + 12, y + 24, name, 16, 'font-weight="bold"'), text(x + 12, y + 43, about, 13)]
        for number, line in enumerate(lines[place]):
            parts += [text(x + 12, y + 62 + HEIGHT_OF_LINE * number, line, 12, f'fill="{LINE}"')]
    return parts, y + height


def floors(y: float) -> tuple[list[str], float]:
    """Return finetune with its floors, and where it ends."""
    heights = [HEIGHT_OF_FLOOR + (HEIGHT_OF_LINE if len(rooms) > 1 else 0) for rooms in FLOORS]
    height = 40 + sum(heights) + 6 * (len(FLOORS) + 1)
    parts = [box(MARGIN, y, WIDTH - 2 * MARGIN, height, COLOURS["finetune"])]
    parts += [text(MARGIN + 12, y + 25, "finetune", 16, 'font-weight="bold"')]
    about = "images + backbone + head + loss: a trained model. A floor imports the floors below it."
    parts += [text(MARGIN + 96, y + 25, about, 13)]
    for place, rooms in enumerate(FLOORS):
        top = y + 38 + sum(heights[:place]) + 6 * place
        width = (WIDTH - 2 * MARGIN - 24 - GAP * (len(rooms) - 1)) / len(rooms)
        for number, (name, room_about, inside) in enumerate(rooms):
            x = MARGIN + 12 + number * (width + GAP)
            parts += [box(x, top, width, heights[place], "#ffffff")]
            parts += [text(x + 12, top + 25, name, 14, 'font-weight="bold"')]
            parts += [text(x + 150, top + 25, room_about, 13)]
            if inside:
                below = len(rooms) > 1  # a narrow room has no place beside its words
                at = (x + 150, top + 25 + HEIGHT_OF_LINE + 2) if below else (x + 540, top + 25)
                parts += [text(*at, " · ".join(inside), 12, f'fill="{LINE}"')]
    return parts, y + height


def drawing() -> str:
    """Return the whole figure as SVG text."""
    parts, y = row(TOP, MARGIN, "apps")
    third = (WIDTH - 2 * MARGIN - 2 * GAP) / 3
    columns = [MARGIN + place * (third + GAP) + third / 2 for place in range(3)]
    parts += [arrow(x, y) for x in columns]
    y += ARROW
    tasks, y = row(TASKS, y, "task")
    parts += [*tasks, *(arrow(x, y) for x in columns)]
    inner, y = floors(y + ARROW)
    parts += [*inner, arrow(WIDTH / 2, y)]
    y += ARROW
    bottom, y = row(BOTTOM, y, "core_losses")
    parts += bottom
    height = y - 14 + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'height="{height:g}" font-family="Helvetica, Arial, sans-serif" fill="#1c2126" role="img">'
    )
    title = "<title>Rooms of the toolkit; arrows point to what is imported</title>"
    ground = f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff"/>'
    return "\n".join([head, title, ground, *parts, "</svg>\n"])


if __name__ == "__main__":
    FILE.write_text(drawing(), encoding="utf-8")

"""The right half of the demo's page: an answer as HTML, readable by eye, keyboard and ear, and as files."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.demo.line_chart import curve_html
from apps.demo.text import data_uri, percent, safe
from finetune.errors import UsageError

if TYPE_CHECKING:
    from apps.demo.answer import Answer, Guess, Row
    from apps.demo.uploads import UploadFolder

TOP = 5
LONG = 12  # characters of a class's name from which on it is set smaller
TABLE_CLASSES = 25  # a table with more columns is better read from the CSV file
DRAWING = threading.Lock()  # matplotlib keeps its settings for the whole process


def results_html(answer: Answer, notice: str = "") -> str:
    """Return an answer as HTML: status line, troubles, heat maps, cards, a table to copy.

    `notice` is one more sentence, said below the table, where the downloads are.
    """
    parts = ['<h2 class="crl-sr">Results</h2>']
    parts += [f'<p class="crl-status" role="status">{safe(answer.status)}</p>', _errors(answer)]
    if answer.rows:
        from apps.heatmap.html import to_html

        single = len(answer.rows) == 1
        cards = "".join(_card(answer, row, opened=single) for row in answer.rows)
        # Of numbers such as years it would show a dozen columns of many; each card has the curve of all.
        heat = "" if answer.line else f'<div class="crl-heat-frame">{to_html(answer.heat_map())}</div>'
        parts += [
            heat,
            f'<div class="crl-cards">{cards}</div>',
            _table(answer),
        ]
    if notice:
        parts.append(f'<p class="crl-warning" role="status">{safe(notice)}</p>')
    return f'<div class="crl-results">{"".join(parts)}</div>'


def _errors(answer: Answer) -> str:
    if not answer.errors:
        return ""
    lines = "".join(
        f"<li>{f'<b>{safe(name)}</b>: ' if name else ''}{safe(reason)}</li>" for name, reason in answer.errors
    )
    return f'<ul class="crl-trouble" role="alert">{lines}</ul>'


def _card(answer: Answer, row: Row, opened: bool) -> str:
    names, label = answer.names, answer.label(row)
    guesses = list(row.guesses.items())
    same = len({guess.crop.tobytes() for _, guess in guesses}) == 1
    several = f"face {row.face} of {answer.faces(row)}" if answer.faces(row) > 1 else ""
    chips = f'<span class="crl-chip">{several}</span>' if several else ""
    if row.true is not None:
        chips += f'<span class="crl-chip crl-chip-true">true class {safe(names[row.true])}</span>'
    warnings = "".join(f'<p class="crl-warning">{safe(words)}</p>' for words in row.warnings)
    models = "".join(_model(answer, row, title, crop=not same) for title, _ in guesses)
    first = guesses[0][1].crop
    seen = _figure(first, f"the crop of {label} that the network saw", _pixels(first)) if same else ""
    return (
        f'<article class="crl-card" aria-label="{safe(label)}">{seen}<div class="crl-card-body">'
        f'<div class="crl-card-head"><h3 title="{safe(row.name)}">{safe(row.name)}</h3>{chips}</div>'
        f'{warnings}<div class="crl-models">{models}</div>{_looks(row, label, names, opened)}</div></article>'
    )


def _model(answer: Answer, row: Row, title: str, crop: bool) -> str:
    names, guess = answer.names, row.guesses[title]
    said, beside = names[guess.class_index], percent(guess.probs[guess.class_index])
    if answer.line is not None:
        said = f"{answer.line.median(guess.probs[None])[0]:g}"
        beside = f"{safe(answer.line.unit)} (median)"
        drawn = curve_html(answer.line, names, guess.probs, guess.inside, row.true)
    else:
        drawn = f'<ol class="crl-bars">{_bars(row, guess, names)}</ol>'
    seen = _figure(guess.crop, f"the crop that {title} saw", _pixels(guess.crop)) if crop else ""
    told = f'<p class="crl-told">{safe(guess.told)}</p>' if _any_told(row) else ""
    return (
        f'<section class="crl-model"><div><h4 title="{safe(title)}">{safe(title)}</h4>{seen}</div>'
        f'<p class="crl-said{" is-long" * (len(said) > LONG)}"><strong>{safe(said)}</strong> '
        f"<span>{beside}</span></p>{told}{drawn}</section>"
    )


def _any_told(row: Row) -> bool:
    """Return whether any model has a sentence on its answer: all then keep the place for one."""
    return any(guess.told for guess in row.guesses.values())


def _bars(row: Row, guess: Guess, names: Sequence[str]) -> str:
    order = np.argsort(-guess.probs, kind="stable")[:TOP]
    shown = [int(index) for index in order]
    if row.true is not None and row.true not in shown:
        shown[-1] = row.true
    return "".join(_bar(names[index], guess, index, row.true) for index in shown)


def _bar(name: str, guess: Guess, index: int, true: int | None) -> str:
    kinds = ["is-said"] * (index == guess.class_index) + ["is-true"] * (index == true)
    value = float(guess.probs[index])
    mark = '<span class="crl-sr"> (true class)</span>' if index == true else ""
    return (
        f'<li class="{" ".join(kinds)}">'
        f'<span class="crl-bar-name" title="{safe(name)}">{safe(name)}{mark}</span>'
        f'<span class="crl-bar" aria-hidden="true"><i style="width:{100 * value:.1f}%"></i></span>'
        f'<span class="crl-bar-value">{percent(value)}</span></li>'
    )


def _looks(row: Row, label: str, names: Sequence[str], opened: bool) -> str:
    figures = "".join(
        _figure(
            guess.look,
            f"where {title} looked in {label}",
            f"{title}, for {names[guess.class_index]}",
            ".jpg",
        )
        for title, guess in row.guesses.items()
        if guess.look is not None
    )
    if not figures:
        return ""
    methods = ", ".join(
        dict.fromkeys(guess.look_method for guess in row.guesses.values() if guess.look_method)
    )
    note = f'<p class="crl-hint">How: {safe(methods)}.</p>' if methods else ""
    return (
        f'<details class="crl-looks"{" open" * opened}><summary>Where the network looked</summary>'
        f'<div class="crl-look-row">{figures}</div>{note}</details>'
    )


def _table(answer: Answer) -> str:
    names = answer.names if len(answer.names) <= TABLE_CLASSES else ()
    numbers = {} if answer.line is None else answer.line.columns()
    head = "".join(
        f'<th scope="col">{safe(words)}</th>'
        for words in ("image", "true class", "model", "predicted", "probability", *numbers, *names)
    )
    lines = []
    for row in answer.rows:
        true = "" if row.true is None else answer.names[row.true]
        for title, guess in row.guesses.items():
            said = answer.names[guess.class_index]
            texts = [true, title, said, f"{guess.probs[guess.class_index]:.4f}"]
            texts += [f"{value_of(guess.probs):g}" for value_of in numbers.values()]
            texts += [f"{value:.4f}" for value in guess.probs[: len(names)]]
            cells = "".join(f"<td>{safe(words)}</td>" for words in texts)
            lines.append(f'<tr><th scope="row">{safe(answer.label(row))}</th>{cells}</tr>')
    return (
        '<details class="crl-all"><summary>All numbers as a table</summary>'
        '<div class="crl-tools">'
        '<button type="button" class="crl-copy" data-crl-copy>Copy table</button></div>'
        '<div class="crl-scroll" tabindex="0" role="region" aria-label="All numbers">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _figure(image: np.ndarray, alt: str, caption: str, kind: str = ".png") -> str:
    return (
        f'<figure class="crl-figure"><img src="{data_uri(image, kind)}" alt="{safe(alt)}">'
        f"<figcaption>{safe(caption)}</figcaption></figure>"
    )


def _pixels(image: np.ndarray) -> str:
    return f"as the network saw it, {image.shape[1]} x {image.shape[0]} px"


@dataclass(frozen=True)
class Downloads:
    """What can be downloaded of one answer.

    Args:
        table: the CSV file.
        drawing: the PNG file; None where the answer is too large for an image.
        notice: why there is no image, in words; "" where there is one.
    """

    table: Path
    drawing: Path | None
    notice: str = ""


def write_downloads(answer: Answer, folder: UploadFolder, paths: Sequence[str | Path]) -> Downloads:
    """Write an answer's CSV and PNG files, which leave the folder together with its uploads.

    Args:
        answer: with one row or more.
        folder: where uploads and results are kept.
        paths: the images of the answer; those that are no uploads do not count.
    """
    from apps.heatmap.heatmap import to_csv
    from apps.heatmap.picture import draw_png

    came = arrival(folder, paths)
    found = answer.heat_map()
    table, drawing = folder.new_file("heatmaps.csv"), folder.new_file("heatmaps.png")
    table.write_text(to_csv(found), encoding="utf-8", newline="")
    _date(table, came)
    try:
        with DRAWING:
            draw_png(found, drawing)
    except UsageError:
        notice = (
            f"There is no PNG this time: {len(answer.rows)} rows of {len(found.column_names)} columns for "
            f"{len(answer.titles)} models are too many for an image. The CSV file has every number; fewer "
            "images or models give a PNG too."
        )
        return Downloads(table, None, notice)
    _date(drawing, came)
    return Downloads(table, drawing)


def arrival(folder: UploadFolder, paths: Sequence[str | Path]) -> float | None:
    """Return when the oldest of the uploads among `paths` came (seconds since 1970), None without any."""
    times = []
    for path in map(Path, paths):
        try:
            if folder.owns(path):
                facts = path.lstat()
                times.append(max(facts.st_mtime, facts.st_ctime))
        except FileNotFoundError:  # swept since it was classified
            continue
    return min(times, default=None)


def _date(file: Path, came: float | None) -> None:
    """Give a result the date of its upload: the janitor takes a result's age from that."""
    if came is not None:
        os.utime(file, (came, came))

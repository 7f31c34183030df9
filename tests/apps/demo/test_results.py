from __future__ import annotations

import os
import time
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from agecls.task import TASK
from apps.demo.answer import Answer, Guess, Row
from apps.demo.results import arrival, results_html, write_downloads
from apps.demo.uploads import UploadFolder

NAMES = ("cat", "dog", "eel", "fox", "gnu", "hen", "imp")
HOSTILE = "<img src=x onerror=alert(1)>.png"

CLASSES = tuple(f"class {number}" for number in range(30))


class Page(HTMLParser):
    """Collects tags with their attributes, and checks that every tag that opens is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "br", "col"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def count(self, tag: str, name: str = "") -> int:
        return sum(
            found == tag and (not name or name in (attrs.get("class") or "").split())
            for found, attrs in self.tags
        )


def guess(index: int = 1, shade: int = 100, look: bool = False, classes: int = len(NAMES)) -> Guess:
    probs = np.full(classes, 0.1 / (classes - 1))
    probs[index] = 0.9
    crop = np.full((8, 8, 3), shade, np.uint8)
    return Guess(index, probs, crop, crop if look else None, "a map" if look else "")


def row(name: str = "a.png", **values: object) -> Row:
    given = {"face": None, "box": None, "true": None, "guesses": {"CE": guess(), "CRL": guess(2)}, **values}
    return Row(name, **given)  # type: ignore[arg-type]


def page(
    *rows: Row, errors: tuple[tuple[str, str], ...] = (), names: tuple[str, ...] = NAMES
) -> tuple[Page, str]:
    html = results_html(Answer(names, ("CE", "CRL"), rows, errors, len(rows), 0.4, "CPU"))
    parsed = Page(html)
    assert parsed.open == []
    return parsed, html


def test_a_card_tells_crop_class_probability_and_five_bars_of_every_model():
    parsed, html = page(row())
    assert parsed.count("article", "crl-card") == 1
    assert parsed.count("section", "crl-model") == 2
    assert parsed.count("ol", "crl-bars") == 2
    assert parsed.count("span", "crl-bar-value") == 10
    assert "<strong>dog</strong> <span>90.0 %</span>" in html
    assert html.count("as the network saw it, 8 x 8 px") == 1
    assert '<p class="crl-status" role="status">1 image, 2 models, 0.4 s on CPU</p>' in html


def test_the_true_class_is_marked_even_past_the_top_five():
    ranked = Guess(0, np.array([0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02]), np.zeros((8, 8, 3), np.uint8))
    parsed, html = page(row(true=6, guesses={"CE": ranked, "CRL": ranked}))
    marked = [attrs for tag, attrs in parsed.tags if tag == "li" and "is-true" in (attrs.get("class") or "")]
    assert len(marked) == 2
    assert html.count("(true class)") == 2
    assert "true class imp" in html
    assert parsed.count("span", "crl-bar-value") == 10


def test_models_that_saw_different_crops_each_show_theirs():
    _, html = page(row(guesses={"CE": guess(), "CRL": guess(2, shade=30)}))
    assert html.count("as the network saw it") == 2


def test_faces_are_numbered_only_where_there_are_several():
    _, one = page(row(face=1))
    assert "face 1" not in one
    _, two = page(row(face=1), row(face=2))
    assert "face 1 of 2" in two
    assert "a.png, face 2" in two


def test_where_the_network_looked_is_open_for_a_single_picture():
    looked = {"CE": guess(look=True), "CRL": guess(2, look=True)}
    _, one = page(row(guesses=looked))
    assert '<details class="crl-looks" open>' in one
    assert "How: a map." in one
    _, two = page(row(guesses=looked), row("b.png", guesses=looked))
    assert '<details class="crl-looks">' in two
    _, without = page(row())
    assert "crl-looks" not in without


def test_headings_go_down_one_step_at_a_time():
    parsed, _ = page(row(), row("b.png"))
    steps = [int(tag[1]) for tag, _ in parsed.tags if tag in ("h1", "h2", "h3", "h4")]
    assert steps[0] == 2  # the page's title is the h1
    assert max(after - before for before, after in pairwise(steps)) == 1


def test_a_notice_about_the_downloads_is_said_and_escaped():
    html = results_html(Answer(NAMES, ("CE", "CRL"), (row(),)), "no <PNG>")
    assert '<p class="crl-warning" role="status">no &lt;PNG&gt;</p></div>' in html


def test_every_number_stands_in_the_table():
    parsed, html = page(row(true=3))
    assert html.count('<th scope="row">a.png</th>') == 2
    assert html.count("<td>0.9000</td>") == 4  # as the predicted class's, and in its own column
    assert parsed.count("button", "crl-copy") == 1


def test_many_classes_are_left_to_the_csv():
    names = tuple(f"class {n}" for n in range(40))
    many = {"CE": guess(classes=40), "CRL": guess(7, classes=40)}
    _, html = page(row(guesses=many), names=names)
    table = html[html.index("crl-all") :]
    assert '<th scope="col">probability</th></tr>' in table
    assert "other (" in html


def test_errors_are_said_and_nothing_else_is_drawn_without_rows():
    parsed, html = page(errors=(("bad.jpg", "the file is empty (0 bytes)"), ("", "no model is chosen")))
    assert "<li><b>bad.jpg</b>: the file is empty (0 bytes)</li><li>no model is chosen</li>" in html
    assert 'role="alert"' in html
    assert parsed.count("article") == 0
    assert "nothing was classified" in html


def test_names_from_outside_are_escaped_everywhere():
    hostile = (HOSTILE, *NAMES[1:])
    seen = row(HOSTILE, true=0, warnings=(HOSTILE,), guesses={HOSTILE: guess(0), '"><b>': guess(1)})
    html = results_html(Answer(hostile, (HOSTILE, '"><b>'), (seen,), ((HOSTILE, HOSTILE),), 1, 0.4))
    parsed = Page(html)
    assert "onerror" not in {name for _, attrs in parsed.tags for name in attrs}
    assert all(
        (attrs.get("src") or "").startswith("data:image/") for tag, attrs in parsed.tags if tag == "img"
    )


@pytest.mark.parametrize("tag", ["script", "link", "iframe", "a"])
def test_nothing_comes_from_elsewhere(tag):
    parsed, html = page(row())
    assert parsed.count(tag) == 0
    assert "http" not in html


def test_classes_are_called_as_people_read_them_and_long_ones_are_set_smaller():
    names = ("001.Black_footed_Albatross", "002.Gull", *(f"{n:03d}.bird_{n}" for n in range(3, 41)))
    seen = {"CE": guess(0, look=True, classes=40), "CRL": guess(1, look=True, classes=40)}
    parsed, html = page(row(true=0, guesses=seen), names=names)
    assert "001." not in html
    assert '<p class="crl-said is-long"><strong>Black footed Albatross</strong>' in html
    assert '<p class="crl-said"><strong>Gull</strong>' in html
    assert "true class Black footed Albatross" in html
    assert "CE, for Black footed Albatross" in html
    assert "other (38)" not in html  # the five best of each model have a column
    assert parsed.count("span", "crl-bar-value") == 10


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(tmp_path) as made:
        yield made


def answer(rows: int, titles: int = 1) -> Answer:
    guess = Guess(0, np.full(len(CLASSES), 1 / len(CLASSES)), np.zeros((8, 8, 3), np.uint8))
    shown = tuple(f"model {number}" for number in range(titles))
    guesses = dict.fromkeys(shown, guess)
    return Answer(CLASSES, shown, tuple(Row(f"{n}.png", None, None, None, guesses) for n in range(rows)))


def upload(folder: UploadFolder, name: str, age: float) -> Path:
    file = folder.path / name
    file.write_bytes(b"x")
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_both_files_are_written(folder):
    made = write_downloads(answer(2), folder, [])
    assert made.table.read_text(encoding="utf-8").count("\n") == 3
    assert made.drawing is not None
    assert cv2.imread(str(made.drawing)) is not None
    assert made.notice == ""


def test_too_much_for_a_picture_gives_the_table_and_a_sentence(folder):
    made = write_downloads(answer(401), folder, [])
    assert made.table.read_text(encoding="utf-8").count("\n") == 402
    assert made.drawing is None
    assert "no PNG this time: 401 rows" in made.notice
    assert "CSV file has every number" in made.notice


def test_the_files_bear_the_date_of_the_oldest_upload(folder, tmp_path, monkeypatch):
    uploads = [upload(folder, name, 0) for name in ("a.png", "b.png")]
    example = tmp_path / "example.png"
    example.write_bytes(b"x")
    came = arrival(folder, [*uploads, example, folder.path / "gone.png"])
    assert came == min(max(file.stat().st_mtime, file.stat().st_ctime) for file in uploads)
    monkeypatch.setattr("apps.demo.results.arrival", lambda *given: came - 500)
    made = write_downloads(answer(2), folder, uploads)
    assert made.drawing is not None
    assert [file.stat().st_mtime for file in (made.table, made.drawing)] == pytest.approx([came - 500] * 2)


def test_examples_alone_have_no_arrival(folder, tmp_path):
    assert arrival(folder, [tmp_path / "example.png"]) is None
    assert arrival(folder, []) is None


def test_what_a_set_promises_stands_below_the_answer_and_nothing_without_one():
    told = replace(guess(), inside=np.arange(len(NAMES)) < 2, told="In about 90 of 100 <b>")
    parsed, html = page(row(guesses={"CE": told, "CRL": guess(2)}))
    assert parsed.count("p", "crl-told") == 2  # an empty one keeps the models' rows in line
    assert '<p class="crl-told">In about 90 of 100 &lt;b&gt;</p><ol class="crl-bars">' in html
    assert page(row())[0].count("p", "crl-told") == 0


def test_years_have_their_median_and_a_curve_in_the_place_of_bars():
    years = ("20", "21", "22", "23+")
    probs = np.array([0.4, 0.2, 0.3, 0.1])
    one = Guess(0, probs, np.full((8, 8, 3), 9, np.uint8), told="The middle 80 %")
    answer = Answer(years, ("CE",), (row(guesses={"CE": one}),), line=TASK.number_line(years))
    html = results_html(answer)
    parsed = Page(html)
    assert parsed.open == []
    assert (parsed.count("ol", "crl-bars"), parsed.count("figure", "crl-curve")) == (0, 1)
    assert parsed.count("div", "crl-heat-frame") == 0
    assert '<th scope="col">age</th><th scope="col">age expected</th>' in html
    assert "<td>20</td><td>0.4000</td><td>21</td><td>21.1</td>" in html
    assert "<strong>21</strong> <span>years (median)</span>" in html
    [said] = answer.to_dict()["pictures"]
    assert said["models"]["CE"]["age"] == 21
    assert said["models"]["CE"]["told"] == "The middle 80 %"
    assert "set" not in said["models"]["CE"]

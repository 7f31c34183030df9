"""The fine-grained tab in a real browser: birds with numbered names, and cars with long ones."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest

from finegrained.data.class_names import CARS, CUB, class_table
from finetune.images.class_names import display_name
from tests.apps.demo.visit import DESK, PHONE, Visit, chromium, opened
from tests.apps.live_demo import LiveDemo, live_demo, picture
from tests.apps.tiny_onnx import tiny_facts, write_tiny

pytestmark = pytest.mark.exhaustive

BIRDS, LONG = class_table(CUB), "Chevrolet Silverado 1500 Hybrid Crew Cab 2012"
LOOKS = [(*DESK, "light"), (*DESK, "dark"), (*PHONE, "light")]


def write_model(file: Path, names: tuple[str, ...], seed: int, maps: bool = True) -> Path:
    facts = tiny_facts(title=file.stem, task="category", class_names=names, ordered=False, crop=None)
    return write_tiny(file, facts, seed=seed, maps=maps)


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDemo]:
    """Two models of 200 birds, the second without maps and with its classes in another order."""
    home = tmp_path_factory.mktemp("birds")
    models = [
        write_model(home / "ce.onnx", BIRDS, 1),
        write_model(home / "crl.onnx", BIRDS[::-1], 2, maps=False),
    ]
    for number, name in enumerate(BIRDS[:3]):
        (home / "examples" / name).mkdir(parents=True)
        (home / "examples" / name / f"{number}.png").write_bytes(picture(number))
    with live_demo(home, models, "--examples", str(home / "examples")) as running:
        yield running


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDemo]:
    home = tmp_path_factory.mktemp("cars")
    with live_demo(home, [write_model(home / "cars.onnx", class_table(CARS), 3)]) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "bird 1.png"
    made.write_bytes(picture(30))
    return made


def names_in(visit: Visit, selector: str) -> list[str]:
    return [text.split("\n")[0].strip() for text in visit.shown(selector).all_inner_texts()]


def columns_in(visit: Visit) -> list[str]:
    """Return the names of the heat map's columns, or of the first image's lines where they became lines."""
    if visit.shown(".crl-heat thead").count():
        return [name for name in names_in(visit, ".crl-heat thead th[scope=col]") if name != "Image"]
    return [name for name in names_in(visit, ".crl-heat tbody tr:first-child th.y") if name]


@pytest.mark.parametrize("look", LOOKS)
def test_two_models_of_two_hundred_birds_side_by_side(birds: LiveDemo, browser: Any, look, file: Path):
    with opened(browser, birds, *look) as visit:
        visit.choose(file)
        visit.page.get_by_text("More options").locator("visible=true").click()
        visit.page.get_by_label("Show where the network looked").locator("visible=true").check()
        assert re.fullmatch(r"1 image, 2 models, \d+\.\d+ s on CPU", visit.classify())
        assert visit.shown(".crl-model").count() == 2
        assert visit.shown(".crl-bars li").count() == 2 * 5
        readable = {display_name(name) for name in BIRDS}
        assert set(names_in(visit, ".crl-bar-name")) <= readable
        heads = columns_in(visit)
        assert len(heads) == len(set(heads)) * (2 if look[0] == DESK[0] else 1)
        assert 6 <= len(set(heads)) <= 12
        assert {name for name in heads if not name.startswith("other (")} <= readable
        cells = visit.shown(".crl-heat tbody td").all_inner_texts()
        assert sum(float(text.split()[0]) for text in cells) == pytest.approx(2, abs=0.1)
        assert visit.shown(".crl-look-row img").count() == 2
        assert "class activation map" in visit.shown(".crl-looks").inner_text()
        assert "occlusion" in visit.shown(".crl-looks").inner_text()
        page, window = visit.widths()
        assert page <= window


def test_both_heat_maps_of_one_picture_are_in_sight_on_a_desk(birds: LiveDemo, browser: Any, file: Path):
    with opened(browser, birds, *DESK, "light") as visit:
        visit.choose(file)
        visit.classify()
        wide, seen = visit.shown(".crl-heat").evaluate("one => [one.scrollWidth, one.clientWidth]")
        assert wide <= seen


def test_answers_of_models_begin_at_one_height(birds: LiveDemo, browser: Any, file: Path):
    with opened(browser, birds, *DESK, "light") as visit:
        visit.choose(file)
        visit.classify()
        visit.page.evaluate(
            "document.querySelectorAll('.crl-said strong')[0].textContent = 'A name of so many words that "
            "it must be broken into several lines to stay inside the column that it stands in'"
        )
        tops = visit.shown(".crl-bars").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
        assert len(tops) == 2
        assert tops[0] == pytest.approx(tops[1], abs=1)


def test_an_example_knows_its_class_and_the_file_has_the_models_names(birds: LiveDemo, browser: Any):
    with opened(browser, birds, *DESK, "light") as visit:
        visit.page.get_by_role("button", name="example, Laysan Albatross").first.click()
        visit.classify()
        assert "true class Laysan Albatross" in visit.shown(".crl-card").inner_text()
        with visit.page.expect_download() as table:
            visit.page.locator("text=Download all numbers (CSV) >> visible=true").click()
        header, first, second = csv.reader(Path(table.value.path()).read_text(encoding="utf-8").splitlines())
        assert header[4:] == list(BIRDS)
        assert [first[2], second[2]] == ["002.Laysan_Albatross"] * 2
        with visit.page.expect_download() as drawing:
            visit.page.locator("text=Download the heat maps (PNG) >> visible=true").click()
        assert cv2.imread(str(drawing.value.path())) is not None
        visit.page.get_by_text("About these models").locator("visible=true").click()
        assert "put into the order of ce, by their names" in visit.shown(".crl-facts").inner_text()


@pytest.mark.parametrize(
    "look", [(*DESK, "light"), pytest.param((*PHONE, "light"), marks=pytest.mark.exhaustive)]
)
def test_long_names_are_wrapped_not_cut(cars: LiveDemo, browser: Any, look, file: Path):
    with opened(browser, cars, *look) as visit:
        visit.choose(file)
        visit.page.get_by_text("More options").locator("visible=true").click()
        choice = visit.page.get_by_label("True class").locator("visible=true").first
        choice.click()
        choice.fill("1500 Hybrid")
        visit.page.get_by_role("option", name=LONG).click()
        assert visit.classify().startswith("1 image, 1 model, ")
        heads = columns_in(visit)
        assert 2 <= len(heads) <= 7
        assert LONG in [" ".join(text.split()) for text in visit.shown(".crl-heat th").all_text_contents()]
        cut = visit.page.evaluate(
            """() => [...document.querySelectorAll(".crl-bar-name, .crl-said, .crl-chip, .crl-heat .v")]
            .filter(one => one.offsetParent && (one.scrollWidth > one.clientWidth + 1
              || one.scrollHeight > one.clientHeight + 1) && getComputedStyle(one).display !== "inline")
            .map(one => [one.className, one.textContent, one.scrollWidth, one.clientWidth,
              one.scrollHeight, one.clientHeight])"""
        )
        assert cut == []
        page, window = visit.widths()
        assert page <= window

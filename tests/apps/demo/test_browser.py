"""The page in a real browser, Debian's chromium by Playwright; skipped with a reason without them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agecls.audit.config import AuditConfig
from agecls.audit.score import score_answers
from tests.agecls.audit.made_answers import spread_answers
from tests.apps.demo.visit import DESK, PHONE, TABLET, Visit, chromium, opened
from tests.apps.live_demo import LiveDemo, live_demo, picture
from tests.apps.tiny_onnx import GROUPS, tiny_facts, write_tiny

pytestmark = pytest.mark.exhaustive

SLACK = 4  # a machine that also runs other tests is this much slower than an idle one
BIRDS = tuple(f"{number:03d}.A bird with a long name {number}" for number in range(60))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveDemo]:
    home = tmp_path_factory.mktemp("home")
    ages = [
        write_tiny(home / f"{title}.onnx", tiny_facts(title=title), seed=number)
        for number, title in enumerate(("CE", "NLLR", "CRL"))
    ]
    birds = tiny_facts(title="birds", task="category", class_names=BIRDS, ordered=False, crop=None)
    ages.append(write_tiny(home / "birds.onnx", birds, seed=5))
    for number, name in enumerate(GROUPS):
        (home / "examples" / name).mkdir(parents=True)
        (home / "examples" / name / f"{name}.png").write_bytes(picture(number))
    with live_demo(home, ages, "--examples", str(home / "examples")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(demo: LiveDemo, browser: Any, request: pytest.FixtureRequest) -> Iterator[Visit]:
    width, height, scheme = getattr(request, "param", (*DESK, "light"))
    with opened(browser, demo, width, height, scheme) as made:
        yield made


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = []
    for number in range(2):
        made.append(tmp_path / f"face {number}.png")
        made[-1].write_bytes(picture(20 + number))
    return made


def test_upload_two_files_click_and_read_the_table(visit, files):
    visit.choose(*files)
    assert re.fullmatch(r"2 images, 3 models, \d+\.\d+ s on CPU", visit.classify())
    assert visit.shown(".crl-card").count() == 2
    heat = visit.shown(".crl-heat")
    assert heat.locator("tbody tr").count() == 2
    assert heat.locator("tbody td").count() == 2 * 3 * len(GROUPS)
    cells = heat.locator("tbody tr").first.locator("td").all_inner_texts()
    numbers = [float(text.split()[0]) for text in cells]
    assert sum(numbers) == pytest.approx(3, abs=0.15)  # three models, each row summing to 1
    visit.page.get_by_text("All numbers as a table").first.click()
    rows = visit.shown(".crl-all tbody tr")
    assert rows.count() == 2 * 3
    assert "face 0.png" in rows.first.inner_text()


def test_downloads_and_copying(visit, files):
    visit.choose(*files)
    visit.classify()
    with visit.page.expect_download() as table:
        visit.page.locator("text=Download all numbers (CSV) >> visible=true").click()
    lines = Path(table.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,model,true class,predicted class," + ",".join(GROUPS)
    assert len(lines) == 1 + 2 * 3
    with visit.page.expect_download() as drawing:
        visit.page.locator("text=Download the heat maps (PNG) >> visible=true").click()
    assert cv2.imread(str(drawing.value.path())) is not None
    visit.page.get_by_text("All numbers as a table").first.click()
    visit.shown(".crl-copy").click()
    visit.page.locator("text=Copied >> visible=true").wait_for()
    copied = visit.page.evaluate("navigator.clipboard.readText()").splitlines()
    assert copied[0].split("\t")[:5] == ["image", "true class", "model", "predicted", "probability"]
    assert len(copied) == 1 + 2 * 3


def test_examples_are_switched_by_keyboard_and_know_their_class(visit):
    for name in ("4-6", "60+"):
        visit.page.get_by_role("button", name=f"example, {name}").first.focus()
        visit.page.keyboard.press("Space")
    pressed = visit.page.locator('.crl-examples:visible [aria-pressed="true"]')
    assert pressed.count() == 2
    pressed.first.click()
    assert pressed.count() == 1
    assert visit.classify().startswith("1 image, 3 models, ")
    assert "true class 60+" in visit.shown(".crl-card").first.inner_text()
    assert visit.shown(".crl-heat td.t").count() == 3


def test_quick_clicks_on_examples_all_count(visit):
    buttons = visit.page.locator(".crl-examples:visible button")
    for place in range(len(GROUPS)):
        buttons.nth(place).click()
    assert visit.classify().startswith(f"{len(GROUPS)} images, ")


def test_sixty_classes_and_hostile_names(visit, tmp_path):
    hostile = tmp_path / "<img src=x onerror=alert(1)>.png"
    hostile.write_bytes(picture(4))
    bad = tmp_path / "page.jpg"
    bad.write_text("<html>no image</html>")
    visit.page.get_by_role("tab", name="Fine-grained").click()
    visit.page.locator('.tabitem:visible input[type="file"]').set_input_files([hostile, bad])
    visit.page.wait_for_function("document.querySelectorAll('.crl-drop .file').length >= 2")
    assert visit.classify().startswith("1 image, 1 model, ")
    assert "a web page" in visit.shown(".crl-trouble").inner_text()
    assert visit.shown(".crl-heat thead th.o").count() == 1
    assert visit.page.locator("img[src='x']").count() == 0


def test_nothing_chosen_is_said_in_words(visit):
    assert visit.classify() == "nothing was classified"
    assert "no image yet" in visit.shown(".crl-trouble").inner_text()


def test_the_loss_explorer_redraws(visit):
    visit.page.get_by_role("tab", name="Loss explorer").click()
    curve = visit.shown(".crl-loss svg .crl").first
    before = curve.get_attribute("d") or curve.get_attribute("points")
    visit.shown('input[type="number"]').first.fill("0.2")
    visit.shown('input[type="number"]').first.press("Tab")
    visit.page.wait_for_function(
        "old => [...document.querySelectorAll('.crl-loss svg .crl')]"
        ".every(one => (one.getAttribute('d') || one.getAttribute('points')) !== old)",
        arg=before,
    )


LOOKS = [(*size, scheme) for size in (PHONE, TABLET, DESK) for scheme in ("light", "dark")]


@pytest.mark.parametrize("visit", LOOKS, indirect=True)
def test_no_width_makes_the_page_scroll_sideways(visit, files):
    visit.choose(*files)
    visit.classify()
    for name in ("Age groups", "Fine-grained", "Loss explorer"):
        visit.page.get_by_role("tab", name=name).click()
        page, window = visit.widths()
        assert page <= window, name
    visit.page.get_by_role("tab", name="Age groups").click()
    side = visit.shown(".crl-answers").bounding_box()["x"] - visit.shown(".crl-panel").bounding_box()["x"]
    assert (side > 300) == (window > 1000)  # two columns on a desk, one below
    ground, body = visit.page.evaluate(
        "[getComputedStyle(document.querySelector('.gradio-container')).backgroundColor, "
        "document.body.className]"
    )
    assert (sum(map(int, re.findall(r"\d+", ground)[:3])) < 200) == ("dark" in body)


SIZES = [(*size, "light") for size in (DESK, (1024, 768), PHONE)]
# Whether the control with the focus is what is seen at its middle, and what it is.
IN_SIGHT = """() => {
  const one = document.activeElement, {left, top, width, height} = one.getBoundingClientRect();
  const seen = document.elementFromPoint(left + width / 2, top + height / 2);
  const words = one.getAttribute("aria-label") || one.closest("label")?.innerText || one.innerText;
  return [one === document.body, words.split("\\n")[0], one.contains(seen)];
}"""


@pytest.mark.parametrize("visit", SIZES, indirect=True)
def test_nothing_hides_the_control_that_has_the_focus(visit):
    visit.page.get_by_role("tab", name="Age groups").focus()
    passed, hidden = [], []
    for _ in range(60):
        visit.page.keyboard.press("Tab")
        visit.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        left, words, in_sight = visit.page.evaluate(IN_SIGHT)
        if left:
            break
        passed.append(words)
        hidden += [] if in_sight else [words]
    assert {"0-2", "CE", "NLLR", "CRL", "More options", "Classify"} <= set(passed)
    assert hidden == []


@pytest.mark.parametrize("visit", SIZES, indirect=True)
def test_the_button_covers_no_switch_wherever_the_page_is_scrolled(visit):
    """A switch may be cut by the window's edge, but nothing may lie over it."""
    covered = visit.page.evaluate(
        """() => { const covered = [];
        for (let down = 0; down < document.documentElement.scrollHeight; down += 40) {
          scrollTo(0, down);
          for (const one of document.querySelectorAll(".crl-panel input[type=checkbox]")) {
            const {left, top, width, height} = one.getBoundingClientRect(), middle = top + height / 2;
            if (!one.offsetParent || middle < 0 || middle >= innerHeight) continue;
            const seen = document.elementFromPoint(left + width / 2, middle);
            if (seen && seen !== one) covered.push([down, seen.className]);
          }
        } return covered; }"""
    )
    assert covered == []


WIDTHS = [(width, 900, "light") for width in (1440, 1280, 1024, 768, 390)]


@pytest.mark.parametrize("visit", WIDTHS, indirect=True)
def test_at_every_width_all_models_are_in_sight(visit, files):
    """Neither the page nor the heat map has to be scrolled sideways, and no number leaves its cell."""
    for tab, models in (("Age groups", 3), ("Fine-grained", 1)):
        visit.page.get_by_role("tab", name=tab).click()
        visit.choose(*files)
        visit.classify()
        wide, seen = visit.shown(".crl-heat").evaluate("one => [one.scrollWidth, one.clientWidth]")
        assert wide <= seen, tab
        cells = visit.shown(".crl-heat tbody tr").first.locator("td")
        last = cells.last.bounding_box()
        frame = visit.shown(".crl-heat-frame").bounding_box()
        assert last["x"] + last["width"] <= frame["x"] + frame["width"], tab
        out = cells.evaluate_all("all => all.filter(one => one.scrollWidth > one.clientWidth + 1).length")
        assert (out, cells.count() % models) == (0, 0), tab
        visit.page.get_by_text("About these models").locator("visible=true").click()
        facts = visit.shown(".crl-facts .crl-scroll")
        wide, seen = facts.evaluate("one => [one.scrollWidth, one.clientWidth]")
        assert wide <= seen, tab
        page, window = visit.widths()
        assert page <= window, tab


@pytest.mark.parametrize("visit", [(*PHONE, "light")], indirect=True)
def test_a_heat_map_fades_where_more_of_it_is_to_the_right(visit, files):
    visit.choose(*files)
    visit.classify()
    heat = visit.shown(".crl-heat")
    mask = "one => getComputedStyle(one).maskImage"
    heat.evaluate("one => { one.style.width = '130px' }")  # three models fit into any real phone
    assert "0.15" in heat.evaluate(mask)
    heat.evaluate("one => { one.scrollLeft = one.scrollWidth }")
    visit.page.wait_for_function(
        "() => [...document.querySelectorAll('.crl-heat')].filter(one => one.offsetParent)"
        ".every(one => !getComputedStyle(one).maskImage.includes('0.15'))"
    )


def test_fields_and_curves_of_the_explorer_agree_whatever_is_typed(visit):
    visit.page.get_by_role("tab", name="Loss explorer").click()
    field, sentence = visit.shown('input[type="number"]').first, visit.shown(".crl-loss li").first
    sentence.wait_for()
    visit.page.wait_for_load_state("networkidle")  # a field that is filled sooner is set back by the page
    for typed, told in (("5", ""), ("9", "drawn for 5, not 9"), ("", "not a number"), ("2", "")):
        field.fill(typed)
        notice = visit.shown(".crl-frame .crl-warning")
        if told:
            notice.filter(has_text=told).wait_for()
        else:
            notice.wait_for(state="detached")
            sentence.filter(has_text=f"\N{GREEK SMALL LETTER ALPHA} = {typed},").wait_for()
        field.press("Tab")
        visit.page.wait_for_function(  # the field mends itself, and the curves follow
            """() => { const seen = all => [...document.querySelectorAll(all)].find(one => one.offsetParent);
            const value = seen('input[type="number"]').value, told = seen(".crl-loss li").innerText;
            return value !== "" && told.includes(`\N{GREEK SMALL LETTER ALPHA} = ${value},`)
              && !seen(".crl-frame .crl-warning"); }"""
        )


def test_long_titles_of_models_are_wrapped_not_clipped(visit):
    clipped = visit.page.evaluate(
        """() => [...document.querySelectorAll(".crl-panel fieldset label span")].filter(one => {
          if (!one.offsetParent) return false;
          one.textContent = "crl alpha 1.5 with a long_title_that_never_ends_fold_0_int8_of_a_run";
          const panel = one.closest(".crl-panel").getBoundingClientRect();
          return one.scrollWidth > one.clientWidth + 1 || one.getBoundingClientRect().right > panel.right - 8;
        }).length"""
    )
    assert clipped == 0


def test_the_keyboard_sees_where_it_is(visit):
    visit.button.focus()
    visit.page.keyboard.press("Shift+Tab")
    outline = visit.page.evaluate(
        "(({outlineStyle, outlineWidth}) => [outlineStyle, outlineWidth])"
        "(getComputedStyle(document.activeElement))"
    )
    assert outline == ["solid", "3px"]


@pytest.mark.alone
def test_the_first_page_is_there_within_a_second(demo, browser):
    """One second on an idle machine, in a browser that has seen nothing of it yet."""
    context = browser.new_context()
    page = context.new_page()
    start = time.perf_counter()
    page.goto(f"http://127.0.0.1:{demo.port}/")
    page.get_by_role("button", name="Classify").first.click(trial=True)
    seconds = time.perf_counter() - start
    context.close()
    assert seconds < 1.0 * SLACK, f"{seconds:.2f} s with a load of {os.getloadavg()[0]:.1f}"


def test_two_faces_side_by_side_with_the_real_detector(real_data, browser, tmp_path):
    """A photograph with a face, and one without: an answer for the first, a sentence for the second."""
    detector = next((real_data / "face_detection").glob("*.onnx"))
    photos = [real_data / "photos" / name for name in ("astronaut.png", "chelsea.png")]
    face = cv2.imread(str(photos[0]))
    cv2.imwrite(str(tmp_path / "twins.png"), np.hstack([face, face]))
    model = write_tiny(tmp_path / "m.onnx", tiny_facts(title="CE"))
    with live_demo(tmp_path, [model], "--detector", str(detector)) as demo:
        page = browser.new_page()
        seen = Visit(page, f"http://127.0.0.1:{demo.port}/")
        seen.open()
        seen.choose(*photos, tmp_path / "twins.png")
        assert seen.classify().startswith("2 images, 3 faces, 1 model, ")
        assert "chelsea.png: no face was found" in seen.shown(".crl-trouble").inner_text()
        assert "face 2 of 2" in seen.shown(".crl-card").last.inner_text()
        page.close()
        assert seen.troubles == []


@pytest.mark.parametrize(("width", "height"), [DESK, PHONE])
def test_the_slider_moves_the_challenge_age_of_an_audit(
    browser: Any, tmp_path: Path, width: int, height: int
) -> None:
    config = AuditConfig(resamples=20, permutations=2, name="made")
    scored = {**score_answers(spread_answers(240), config), "notes": []}
    (tmp_path / "audit.json").write_text(json.dumps(scored), encoding="utf-8")
    model = write_tiny(tmp_path / "a.onnx", tiny_facts())
    row = next(one for one in scored["challenge_ages"] if one["challenge"] == 21)
    with (
        live_demo(tmp_path, [model], "--audit", str(tmp_path)) as running,
        opened(browser, running, width, height, "light") as visit,
    ):
        visit.page.get_by_role("tab", name="Audit").click()
        assert visit.shown(".crl-audit caption").inner_text() == "made at challenge age 25"
        visit.page.locator('.tabitem:visible input[type="range"]').focus()
        for _ in range(4):
            visit.page.keyboard.press("ArrowLeft")
        visit.page.get_by_text("made at challenge age 21").locator("visible=true").wait_for()
        assert f"{row['fpr']['percent']:.1f} %" in visit.shown(".crl-audit table").inner_text()
        page, window = visit.widths()
        assert page <= window
        assert visit.troubles == []

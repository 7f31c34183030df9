"""docs/architecture.md and its figure show the folders that there are; a rule that can fail has a twin."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from tests.test_house import ALLOWED, FLOORS

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
OTHER = {"benchmarks", "docs", "examples", "tests"}  # beside the packages
BLOCK = re.compile(r"## The folders\s+```\n(.*?)```", re.DOTALL)
PLACES = re.compile(r"`((?:core_losses|finetune|agecls|finegrained|generalcls|apps|tests)(?:/[\w./]+)?)`")


def listed(block: str) -> list[str]:
    """Return the folders of a listing that is indented by two spaces for each level."""
    above: list[str] = []
    found = []
    for line in block.splitlines():
        name = line.split()[0]
        level = (len(line) - len(line.lstrip())) // 2
        above = [*above[:level], name.rstrip("/")]
        found.append("/".join(above))
    return found


def packages() -> set[str]:
    """Return every folder of the product that holds modules or recipes."""
    return {
        file.parent.relative_to(ROOT).as_posix()
        for room in ALLOWED
        for file in (ROOT / room).rglob("__init__.py")
    }


def block() -> str:
    """Return the listing of the page."""
    found = BLOCK.search(PAGE.read_text(encoding="utf-8"))
    assert found is not None
    return found[1]


def figure() -> ModuleType:
    """Return the script that draws the figure, as a module."""
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_lists_every_folder_and_no_other():
    folders = listed(block())
    assert set(folders) == packages() | OTHER
    assert len(folders) == len(set(folders))
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_every_folder_says_what_it_holds():
    assert [line for line in block().splitlines() if len(line.split(maxsplit=1)) < 2] == []


def test_a_folder_in_the_wrong_place_would_be_seen():
    assert listed("apps/  x\n  demo/  y\n    security/  z\n  export/  w\ndocs/  v") == [
        "apps",
        "apps/demo",
        "apps/demo/security",
        "apps/export",
        "docs",
    ]


def test_every_file_and_folder_that_the_page_names_is_there():
    named = set(PLACES.findall(PAGE.read_text(encoding="utf-8"))) - {"tests/PACKAGE/test_FILE.py"}
    assert len(named) > 20
    assert {place for place in named if not (ROOT / place).exists()} == set()


def test_the_figure_is_the_one_that_the_script_draws():
    drawn = figure()
    assert drawn.FILE.read_text(encoding="utf-8") == drawn.drawing()


def test_the_figure_has_the_floors_and_rooms_of_the_house():
    drawn = figure()
    floors = [{name for rooms in floor for name in rooms[0].split(", ")} for floor in drawn.FLOORS[::-1]]
    assert floors == [set(floor) for floor in FLOORS]
    rooms = {name: set(inside) for row in (drawn.TOP, drawn.TASKS) for name, _, inside in row}
    rooms |= {
        f"finetune/{name}": set(inside) for floor in drawn.FLOORS for name, _, inside in floor if inside
    }
    for room, inside in rooms.items():
        assert inside == {
            one.removeprefix(f"{room}/") for one in packages() if one.rpartition("/")[0] == room
        }
    assert {*rooms, *(name for name, *_ in drawn.BOTTOM)} >= set(ALLOWED) - {"finetune"}

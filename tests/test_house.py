"""The house rules: who may import whom, how large a room and a file are, and which door each guest enters by.

Imports count wherever they stand: inside functions and under TYPE_CHECKING too. Each rule has a failing twin.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import itself and the rooms listed; the three tasks never meet.
ALLOWED = {
    "core_losses": set(),
    "finetune": {"core_losses"},
    "agecls": {"finetune", "core_losses"},
    "finegrained": {"finetune", "core_losses"},
    "generalcls": {"finetune", "core_losses"},
    "apps": {"agecls", "finegrained", "generalcls", "finetune", "core_losses"},
}
ROOMS = {*ALLOWED, "tests", "benchmarks", "examples"}

# The floors inside finetune, from the ground up: a sub-room imports those below its own and none beside it.
FLOORS = (
    ("errors", "seeding"),
    ("runs",),
    ("cli",),
    ("images", "metrics"),
    ("figures",),
    ("models",),
    ("training",),
    ("experiments",),
)
GROUND = set(FLOORS[0])  # all that finetune holds beside its sub-rooms, and so all that these import of it

# What the general studies take of the top floor: they train in their own way. The options of a comparison of
# losses (`ComparisonConfig`) stand in config.
FOR_GENERALCLS = ("study", "engines", "config")

MOST_MODULES, MOST_LINES = 16, 350
MOST_REPEATED = 10  # lines of a function's body, its docstring not counted
VAGUE = ("util", "helper", "misc")

# Each guest enters by its own files only.
DOORS = {
    # The plain loop is what the doctor measures the toolkit against: timm's own, as a user would write it.
    # Networks that timm does not have are made known to it where they are written.
    "timm": {
        "finetune/models/backbone.py",
        "finetune/models/face_networks.py",
        "apps/doctor/gpu/work/plain_loop.py",
    },
    "albumentations": {"finetune/images/augmentation/library.py"},
    "PIL": {"finetune/images/decode.py", "finetune/images/augmentation/extras.py"},
    "sklearn": {
        "finegrained/heads/dfl_init.py",
        "generalcls/data/datasets.py",
    },
    "onnx": {
        "apps/export/run.py",
        "apps/runtime/model_file.py",
        "apps/runtime/graph_limits.py",
        "apps/export/convert.py",
        "apps/export/simplify.py",
    },
    "onnxruntime": {"apps/runtime/session.py", "apps/export/convert.py"},
    "gradio": {"apps/demo/page.py"},
    "IPython": {"finetune/cli/console.py"},
    "torchvision": {"generalcls/data/datasets.py", "finetune/images/augmentation/extras.py"},
}

# apps finds a task by entry point and asks it. What names one all the same, and why; faces (agecls.faces) may
# be named anywhere: what cuts a face out for a model stands beside the detector.
TASK_ROOMS = ("agecls", "finegrained", "generalcls")
TASK_KINDS = {"age", "category"}
NAMES_A_TASK = {
    "apps/cli.py": {"agecls", "finegrained", "generalcls", "age"},  # the table of the toolkit's own commands
    "apps/config.py": {"agecls"},  # the options of evaluate-onnx are those of the task with most of them
    "apps/quickstart.py": {"agecls"},  # its example
    "apps/doctor/gpu/work/drawn.py": {"finegrained"},  # its drawn images
    "apps/doctor/gpu/work/general.py": {"generalcls"},  # the engine that it tries
    "apps/doctor/gpu/checks/memory.py": {"finegrained"},  # the counted bytes that it compares
}
FACES = re.compile(r"\bagecls\.faces\b")
# The one module that may ask how many cores the machine has: it asks first how many were granted.
CORES = "finetune/cli/machine.py"

# Importing these must not import torch: they answer before a model is needed.
TORCH_FREE = (
    "core_losses",
    "core_losses.closed_forms",
    "finetune.cli.words",
    "finetune.training.loss_choice",
    "finetune.errors",
    "finetune.images.manifest",
    "finetune.training.config",
    "finetune.seeding",
    "finetune.images.preprocess",
    "finetune.images.decode",
    "finetune.images.class_names",
    "finetune.cli.console",
    "finetune.figures.evidence",
    "finetune.experiments.records.run_settings",
    "finetune.experiments.study.arms",
    "finetune.experiments.study.cells",
    "finetune.experiments.study.schedule",
    "finetune.experiments.study.report",
    "finetune.experiments.config",
    "finetune.experiments.study.statistics",
    "finetune.experiments.study.conclusion",
    "finetune.metrics.paired_tests",
    "generalcls",
    "generalcls.commands",
    "generalcls.door",
    "generalcls.config",
    "generalcls.published",
    "generalcls.data.datasets",
    "generalcls.data.synthetic",
    "finegrained.data.class_names",
    "finegrained.config",
    "finegrained.data.cub",
    "finegrained.data.cars",
    "finegrained.data.load",
    "finegrained.data.folders",
    "finegrained.data.image_table",
    "finegrained.data.layouts",
    "finegrained.synthetic.datasets",
    "finegrained.data.reading",
    "finegrained.measures",
    "finegrained",
    "finegrained.door",
    "finegrained.scores",
    "finegrained.data.splits",
    "finegrained.data.verify",
    "agecls.data.groups",
    "agecls.data.adience",
    "agecls.data.age_table",
    "agecls.data.folds",
    "agecls.synthetic.adience",
    "agecls.measures",
    "agecls",
    "agecls.door",
    "agecls.scores",
    "agecls.report.figures",
    "agecls.task",
    "finegrained.task",
    "finetune.experiments.task",
    "finetune.experiments.exported.lookup",
    "finetune.experiments.exported.other_data",
    "agecls.exported.other_data",
    "finegrained.exported.other_data",
    "finetune.experiments.result",
    "finetune.experiments.measures",
    "finetune.experiments.compare.compare",
    "agecls.report.report",
    "agecls.config",
    "agecls.audit.run",
    "finetune.figures.canvas",
    "finetune.cli.machine",
    "finetune.figures.heat_map",
    "agecls.faces.crop",
    "agecls.faces.alignment",
    "agecls.faces.detector",
    "apps.cli",
    "apps.commands",
    "apps.config",
    "apps.runtime.metadata",
    "apps.runtime.model_file",
    "apps.runtime.session",
    "apps.session",
    "finetune.cli.keywords",
    "finetune.figures.notebook",
    "finetune.experiments.door",
    "apps.predict.run",
    "apps.predict.predict",
    "apps.predict.inputs",
    "apps.predict.loader",
    "apps.predict.writers",
    "apps.predict.views",
    "apps.predict.summary",
    "apps.evaluate.evaluate_onnx",
    "apps.heatmap.heatmap",
    "apps.runtime.occlusion",
    "apps.demo.page",
    "apps.demo.service",
    "apps.doctor.run",
    "apps.doctor.checks",
    "apps.doctor.probes",
    "apps.heatmap.picture",
    "apps.explain",
    "apps.export.card",
)


@cache
def source_files() -> tuple[tuple[str, str, str], ...]:
    """Return (room, relative path, text) of every Python file of every room that stands."""
    files = [(room, path) for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]
    return tuple(
        (room, path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for room, path in files
    )


@dataclass(frozen=True)
class Named:
    """What a piece of source names anywhere: imports, texts, and the names imported or behind a dot."""

    imports: tuple[str, ...]
    texts: tuple[str, ...]
    names: frozenset[str]


@cache  # every rule asks, and a file is parsed once
def named_in(source: str) -> Named:
    """Read a piece of source."""
    imports, texts, names = [], [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            before = ""
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, "imports are absolute here"
                before = f"{node.module}."
            imports += [before + alias.name for alias in node.names]
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
    return Named(tuple(imports), tuple(texts), frozenset(names))


def imported_names(source: str) -> tuple[str, ...]:
    """Return every dotted name that a piece of source imports, wherever the import stands."""
    return named_in(source).imports


def module_name(path: str) -> str:
    """Return the dotted name of a file's module; a package's is that of its folder."""
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_modules(source: str, known: Mapping[str, object]) -> set[str]:
    """Return those of the known modules that a piece of source imports."""
    found = (name if name in known else name.rpartition(".")[0] for name in imported_names(source))
    return {name for name in found if name in known}


@cache
def house() -> dict[str, set[str]]:
    """Return every module with the modules that it imports."""
    sources = {module_name(path): text for _, path, text in source_files()}
    return {name: imported_modules(text, sources) - {name} for name, text in sources.items()}


def broken_arrows(room: str, source: str) -> set[str]:
    """Return the rooms that `source`, lying in `room`, imports against the arrows."""
    packages = {name.split(".")[0] for name in imported_names(source)}
    return (packages & ROOMS) - ALLOWED[room] - {room}


def broken_doors(file: str, source: str) -> set[str]:
    """Return the guests that `file` lets in although it is not their door."""
    guests = {name.split(".")[0] for name in imported_names(source)} & set(DOORS)
    return {guest for guest in guests if file not in DOORS[guest]}


def tasks_named(source: str) -> set[str]:
    """Return the rooms and kinds of tasks that a source names, in imports and texts; faces are none."""
    named = named_in(source)
    told = FACES.sub("", "\n".join([*named.imports, *named.texts]))
    rooms = {room for room in TASK_ROOMS if re.search(rf"\b{room}\b", told)}
    return rooms | (TASK_KINDS & set(named.texts))


def counts_cores(source: str) -> bool:
    """Return whether a piece of source counts the machine's cores itself, whatever was granted."""
    named = named_in(source)
    return not named.names.union(named.texts).isdisjoint(("cpu_count", "process_cpu_count"))


def stairs_up(module: str, imported: set[str]) -> set[str]:
    """Return what a module of finetune imports from above, or from another room of its own floor."""
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    own, *_ = module.split(".")[1:]

    def wrong(other: str) -> bool:
        package, _, rest = other.partition(".")
        room = rest.split(".")[0]
        return package == "finetune" and room != own and floor_of.get(room, 99) >= floor_of.get(own, -1)

    return {other for other in imported if wrong(other)}


def beyond_the_study(imported: set[str]) -> set[str]:
    """Return what a general study imports of the top floor beside what it may."""
    allowed = tuple(f"finetune.experiments.{name}" for name in FOR_GENERALCLS)
    top = {name for name in imported if name.startswith("finetune.experiments")}
    return {name for name in top if not any(name == one or name.startswith(f"{one}.") for one in allowed)}


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the sets of modules that import each other, directly or round about."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[start] = seen
    found: list[set[str]] = []
    for name, seen in reached.items():
        if name in seen and not any(name in circle for circle in found):
            found.append({other for other in seen if name in reached.get(other, set())})
    return found


def pairs_of_rooms(graph: Mapping[str, set[str]]) -> set[frozenset[str]]:
    """Return the pairs of sub-rooms side by side in one room whose modules import each other's."""
    arrows = {(_folder(name), _folder(other)) for name, others in graph.items() for other in others}
    both = {frozenset((a, b)) for a, b in arrows if a != b and (b, a) in arrows}
    return {pair for pair in both if len({name.rpartition("/")[0] for name in pair}) == 1}


def _folder(module: str) -> str:
    return "/".join(module.split(".")[:-1]) or module


def crowded(paths: list[str]) -> set[str]:
    """Return the folders that hold more modules than a room may, `__init__` not counted."""
    counts = Counter(path.rpartition("/")[0] for path in paths if not path.endswith("__init__.py"))
    return {folder for folder, count in counts.items() if count > MOST_MODULES}


class _Unnamed(ast.NodeTransformer):
    """Takes names of variables and values of constants out of a tree, so that renaming hides nothing."""

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name("_", node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg("_")

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(type(node.value).__name__)


def long_bodies(source: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the shape of each function whose body is long, its docstring left out."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        body = node.body[1:] if ast.get_docstring(node) is not None else node.body
        if body and (body[-1].end_lineno or 0) - body[0].lineno >= MOST_REPEATED:
            yield f"{node.name}, line {node.lineno}", ast.dump(_Unnamed().visit(ast.Module(body, [])))


def repeated(sources: Mapping[str, str]) -> list[set[str]]:
    """Return the sets of functions whose long bodies are the same but for names and constants."""
    found: dict[str, set[str]] = {}
    for path, source in sources.items():
        for name, shape in long_bodies(source):
            found.setdefault(shape, set()).add(f"{path}: {name}")
    return [functions for functions in found.values() if len(functions) > 1]


def vague(path: str) -> bool:
    """Tell whether a folder or file has a name that says nothing of what it holds."""
    return any(word in part for part in path.split("/") for word in VAGUE)


def test_imports_follow_the_arrows():
    broken = {path: arrows for room, path, text in source_files() if (arrows := broken_arrows(room, text))}
    assert broken == {}


def test_an_import_against_the_arrows_is_caught():
    assert broken_arrows("core_losses", "def late():\n    from finetune.training.loop import evaluate") == {
        "finetune"
    }
    assert broken_arrows("agecls", "import finegrained.heads.dcl") == {"finegrained"}
    assert broken_arrows("finetune", "if TYPE_CHECKING:\n    import apps") == {"apps"}
    for outside in ("tests", "benchmarks", "examples"):
        assert broken_arrows("apps", f"from {outside} import conftest") == {outside}


def test_finetune_is_climbed_from_the_ground_up():
    assert {
        name.split(".")[1] for name in house() if name.count(".") == 1 and name.startswith("finetune.")
    } == {room for floor in FLOORS for room in floor}
    climbing = {name: house()[name] for name in house() if name.startswith("finetune.")}
    assert {name: up for name, imported in climbing.items() if (up := stairs_up(name, imported))} == {}


def test_a_way_up_or_across_in_finetune_is_caught():
    assert stairs_up("finetune.runs.lock", {"finetune.training.config"}) == {"finetune.training.config"}
    assert stairs_up("finetune.images.boxes", {"finetune.metrics.bootstrap"}) == {
        "finetune.metrics.bootstrap"
    }
    assert stairs_up("finetune.errors", {"finetune.seeding"}) == {"finetune.seeding"}
    assert stairs_up("finetune.training.fit", {"finetune.loose", "finetune.errors"}) == {"finetune.loose"}
    assert (
        stairs_up("finetune.models.heads.base", {"finetune.models.backbone", "finetune.cli.console"}) == set()
    )
    source = "if TYPE_CHECKING:\n    from finetune.models import weights\n"
    source += "def late():\n    import finetune.cli.console"
    known = {"finetune.models": 0, "finetune.models.weights": 0, "finetune.cli.console": 0}
    assert imported_modules(source, known) == {"finetune.models.weights", "finetune.cli.console"}


def test_sub_rooms_take_errors_and_seeding_of_their_parent_only():
    loose = {path for _, path, _ in source_files() if path.count("/") == 1 and path.startswith("finetune/")}
    assert {Path(path).stem for path in loose} == {*GROUND, "__init__"}


def test_general_studies_take_of_the_top_floor_what_a_study_is():
    general = {name: imported for name, imported in house().items() if name.startswith("generalcls")}
    assert {name: more for name, imported in general.items() if (more := beyond_the_study(imported))} == {}
    taken = {
        name.split(".")[2] for imported in general.values() for name in imported if "experiments." in name
    }
    assert taken <= set(FOR_GENERALCLS)
    assert "study" in taken


def test_a_general_study_that_takes_more_is_caught():
    taken = {
        "finetune.experiments.records.predictions",
        "finetune.experiments.study.arms",
        "finetune.training.config",
    }
    assert beyond_the_study(taken) == {"finetune.experiments.records.predictions"}
    assert beyond_the_study({"finetune.experiments.study_of_mine"}) == {"finetune.experiments.study_of_mine"}


def test_no_two_modules_import_each_other():
    assert circles(house()) == []


def test_a_circle_is_caught_however_long():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": set()}) == []
    known = {"a": 0, "b": 0}
    twins = {"a": "if TYPE_CHECKING:\n    from b import B", "b": "def late():\n    import a"}
    assert circles({name: imported_modules(text, known) for name, text in twins.items()}) == [{"a", "b"}]


def test_no_two_sub_rooms_import_each_other():
    assert pairs_of_rooms(house()) == set()


def test_two_sub_rooms_that_import_each_other_are_caught():
    graph = {
        "apps.a.x": {"apps.b.y"},
        "apps.b.z": {"apps.a.w"},
        "apps.a.w": {"apps.top"},
        "apps.top": {"apps.a.x"},
    }
    assert pairs_of_rooms(graph) == {frozenset(("apps/a", "apps/b"))}


def test_rooms_and_files_have_sizes_to_live_in():
    assert crowded([path for _, path, _ in source_files()]) == set()
    assert {path for _, path, text in source_files() if len(text.splitlines()) > MOST_LINES} == set()


def test_a_crowded_room_is_caught():
    paths = [f"apps/a/m{number}.py" for number in range(MOST_MODULES)] + ["apps/a/__init__.py"]
    assert crowded(paths) == set()
    assert crowded([*paths, "apps/a/more.py", "apps/a/b/other.py"]) == {"apps/a"}


def test_no_long_function_is_written_twice():
    assert repeated({path: text for _, path, text in source_files()}) == []


def test_a_long_function_written_twice_is_caught():
    lines = [f"    total = total + scale * {number}" for number in range(MOST_REPEATED)]
    first = "\n".join(["def first(total, scale):", '    """Say one thing."""', *lines, "    return total"])
    second = first.replace("total", "mass").replace("first", "second").replace("one thing", "another")
    method = f"class B:\n{textwrap.indent(second, '    ')}"
    assert repeated({"a.py": first, "b.py": method}) == [{"a.py: first, line 1", "b.py: second, line 2"}]
    (twins,) = repeated({"a.py": f"{method}\n\n\n{method}"})
    assert len(twins) == 2
    assert repeated({"a.py": first, "b.py": method.replace("mass + scale", "mass - scale")}) == []
    shorter = "\n".join(first.splitlines()[:-1])
    assert repeated({"a.py": shorter, "b.py": shorter}) == []


def test_guests_enter_by_their_doors():
    broken = {path: guests for _, path, text in source_files() if (guests := broken_doors(path, text))}
    assert broken == {}


def test_cores_are_counted_in_one_place():
    assert {path for _, path, text in source_files() if counts_cores(text)} == {CORES}


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef late():\n    return os.cpu_count() or 1",
        "import os as system\ncount = system.cpu_count",
        "from os import cpu_count",
        "import multiprocessing\nmultiprocessing.cpu_count()",
        "from multiprocessing import cpu_count as cores",
        "import os\nos.process_cpu_count()",
        "import psutil\npsutil.cpu_count()",
        "import os\ngetattr(os, 'cpu_count')()",
    ],
)
def test_a_second_count_of_cores_is_caught(source: str):
    assert counts_cores(source)


def test_the_toolkits_own_count_of_cores_is_free_to_all():
    assert not counts_cores("from finetune.cli.machine import core_count\ncore_count()")


def test_every_door_is_used():
    doors = {guest: {file for file in files if (ROOT / file).is_file()} for guest, files in DOORS.items()}
    assert doors == DOORS
    texts = {path: set(imported_names(text)) for _, path, text in source_files()}
    for guest, files in DOORS.items():
        for file in files:
            assert any(name.split(".")[0] == guest for name in texts[file]), (guest, file)


def test_a_guest_at_the_wrong_door_is_caught():
    assert broken_doors("finetune/training/loop.py", "def late():\n    import timm.data") == {"timm"}
    assert broken_doors("agecls/report/report.py", "from PIL import Image") == {"PIL"}


def test_programs_name_no_task():
    named = {
        path: tasks for room, path, text in source_files() if room == "apps" and (tasks := tasks_named(text))
    }
    assert named == NAMES_A_TASK


def test_a_program_that_names_a_task_is_caught():
    assert tasks_named("def late():\n    from agecls.task import TASK") == {"agecls"}
    assert tasks_named("import generalcls") == {"generalcls"}
    assert tasks_named('if facts.task == "category":\n    pass') == {"category"}
    assert tasks_named('TITLES = {"age": "Ages"}') == {"age"}
    assert tasks_named('"""As `finegrained.card` returns it."""') == {"finegrained"}
    assert tasks_named('load("agecls.scores")') == {"agecls"}
    assert tasks_named("from agecls.faces.crop import FaceCrop") == set()
    assert tasks_named('import unicodedata\nunicodedata.category("a")\nage = "the age of a file"') == set()


def test_every_rule_sees_files():
    assert {room for room, _, _ in source_files()} == set(ALLOWED)
    assert len(source_files()) > 200
    assert sum(map(len, house().values())) > 1000


def test_every_name_says_what_is_in_it():
    assert [path for _, path, _ in source_files() if vague(path)] == []
    assert [
        path for path in ("finetune/utils/a.py", "apps/helpers.py", "agecls/misc.py") if not vague(path)
    ] == []
    assert not vague("finetune/runs/files.py")


IMPORT_EACH = """
import importlib, json, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        told = "torch" if "torch" in sys.modules else ""
    except Exception as error:
        told = repr(error)
    print(json.dumps([name, told]))
    if "torch" in sys.modules:
        break
"""


@cache
def import_complaints(modules: tuple[str, ...], folder: Path = ROOT) -> dict[str, str]:
    """Return what is wrong with importing each module of a folder, without pytest and its imports.

    They are imported one after the other. Behind one that imported torch, another process goes on.
    """
    found: dict[str, str] = {}
    while waiting := [module for module in modules if module not in found]:
        words = [sys.executable, "-c", IMPORT_EACH, *waiting]
        lines = subprocess.run(
            words, cwd=folder, check=True, capture_output=True, text=True
        ).stdout.splitlines()
        found |= dict(json.loads(line) for line in lines)
    return found


@pytest.mark.parametrize("module", TORCH_FREE)
def test_module_imports_without_torch(module: str):
    assert import_complaints(TORCH_FREE)[module] == ""


def test_each_module_that_imports_torch_or_fails_is_told(tmp_path: Path):
    """A torch of one's own stands for the real one, which takes seconds."""
    late = "def start():\n    import torch\n"
    files = {
        "torch": "",
        "plain": late,
        "slow": "import torch",
        "by_slow": "import plain, slow",
        "lost": "import no",
    }
    for name, source in files.items():
        (tmp_path / f"{name}.py").write_text(source)
    wrong = import_complaints(("plain", "by_slow", "lost", "json", "slow"), tmp_path)
    assert wrong.pop("lost") == repr(ModuleNotFoundError("No module named 'no'"))
    assert wrong == {"plain": "", "by_slow": "torch", "json": "", "slow": "torch"}

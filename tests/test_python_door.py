"""The commands as functions in Python: the README's lines run, signatures are whole, nothing leaks."""

from __future__ import annotations

import ast
import base64
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import agecls
import agecls.door
import finegrained
import finegrained.door
import generalcls
import generalcls.door
from agecls.config import AgeConfig, AgeDataConfig, AgeTrainConfig
from apps.commands import COMMANDS as PROGRAMS
from apps.session import export_run
from finetune.cli.command import Command, command_line
from finetune.cli.console import quiet, reset
from finetune.cli.keywords import SHORTCUTS, read_keywords
from finetune.cli.options import parse_options
from finetune.errors import CrlError, DataError, ResourceError, UsageError
from finetune.experiments.door import TaskResult
from finetune.experiments.result import Result
from finetune.figures.notebook import Outcome, Page
from finetune.training.config import HeadConfig, LossConfig, ModelConfig, TrainConfig, to_dict
from tests.agecls.audit.made_answers import spread_answers, write_csv
from tests.agecls.tiny_ages import as_table, drawn_faces
from tests.finegrained.tiny_birds import birds

pytestmark = pytest.mark.usefixtures("undrawn")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"agecls": agecls, "finegrained": finegrained, "generalcls": generalcls}
COMMAND_OF = {"cross_validate": "cv", "measure_costs": "cost", "audit_ages": "audit"}
# Single folds leave no result; a study's seeds are the study's.
LEFT_OUT = {("agecls", "cross_validate"): {"folds", "report"}, ("agecls", "study"): {"folds", "report"}}
NAMES = [
    (package, name) for package, door in PACKAGES.items() for name in door.__all__ if name != "load_result"
]

TINY_MODEL = {"backbone": "test_resnet", "weights": "none", "image_size": 32, "resize_ratio": 1.125}
TINY: dict[str, Any] = {
    "model": TINY_MODEL,
    "train": {"epochs": 1, "batch_size": 8, "lr": 0.05, "augment": "flip", "warmup_epochs": 0.0},
    "device": "cpu",
}
TINY_DIGITS: dict[str, Any] = {
    "data": {"name": "digits", "train_fraction": 0.1, "test_fraction": 0.2},
    "network": "logistic",
    "train": {"epochs": 1, "batch_size": 16},
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    reset()


def commands_of(package: str) -> dict[str, Command]:
    """Return the commands of a package as readers of words, whatever their files and folders."""
    found: dict[str, Command] = sys.modules[f"{package}.commands"].COMMANDS
    return {name: replace(command, faults=None) for name, command in found.items()}


def place(folder: Path, name: str = "run") -> dict[str, Any]:
    """Return the section that puts a run into a new folder."""
    return {"dir": folder / name, "workers": 0, "cache": folder / "cache"}


# The README's lines.


def readme_lines() -> str:
    """Return the code under the README's heading "From Python"."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("## From Python")[2]
    return text.partition("```python\n")[2].partition("```")[0]


def test_the_readme_trains_compares_exports_and_predicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reset()
    monkeypatch.chdir(tmp_path)
    lines = readme_lines()
    assert len([line for line in lines.splitlines() if line.strip()]) <= 15
    names: dict[str, Any] = {}
    exec(compile(lines, "README.md", "exec"), names)
    assert isinstance(names["crl"], Result)
    assert names["crl"].record.loss["alpha"] == 1
    assert names["answer"].class_name in names["crl"].class_names
    wanted = names["crl"].predictions.probs[0]
    np.testing.assert_allclose(names["answer"].probs, wanted, atol=0.02)
    shown = capsys.readouterr().out
    assert shown.count("exact accuracy") == 1  # the conclusion, once


def test_the_losses_of_the_readme_run_as_copied() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(compile(text, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["logits"].grad.abs().sum() > 0


def test_the_pages_name_functions_and_arguments_that_there_are() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    calls = [node for block in blocks for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Call)]
    seen = 0
    for call in calls:
        name = ast.unparse(call.func)
        package, _, function = name.partition(".")
        if name != "export_run" and (package not in PACKAGES or "." in function):
            continue
        asked = export_run if name == "export_run" else getattr(PACKAGES[package], function)
        known = inspect.signature(asked).parameters
        assert {word.arg for word in call.keywords} <= set(known), ast.unparse(call)
        recipe = call.args and function == "train" and ast.literal_eval(call.args[0])
        assert not recipe or (ROOT / package / "configs" / f"{recipe}.yaml").is_file()
        seen += 1
    assert seen >= 6
    for package, door in PACKAGES.items():
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        told = [row for row in rows if "all three" in row or (f"`{package}`" in row and "Error" not in row)]
        assert {re.match(r"\| `(\w+)`", row)[1] for row in told} == set(door.__all__)  # type: ignore[index]


# What a package holds.


def test_the_packages_import_nothing_heavy_and_tell_their_functions() -> None:
    script = """
import sys, agecls, finegrained, generalcls
heavy = {"torch", "numpy", "timm", "yaml", "pyarrow", "jsonargparse", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
for package in (agecls, finegrained, generalcls):
    assert set(package.__all__) <= set(dir(package))
    assert all(callable(getattr(package, name)) for name in package.__all__)
assert "torch" not in sys.modules
try:
    agecls.trian
except AttributeError as error:
    assert "trian" in str(error)
else:
    raise SystemExit("agecls.trian is there")
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


def test_no_submodule_takes_the_place_of_a_function() -> None:
    for package, door in PACKAGES.items():
        modules = {path.stem for path in (ROOT / package).iterdir() if path.suffix in (".py", "")}
        assert not modules & set(door.__all__)
    assert "cost" in {path.name for path in (ROOT / "finegrained").iterdir()}  # and so it is measure_costs


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_every_option_is_an_argument(package: str, name: str) -> None:
    command = commands_of(package)[COMMAND_OF.get(name, name)]
    known = inspect.signature(getattr(PACKAGES[package], name)).parameters
    options = {item.name for item in fields(command.config_type)}
    missing = options - set(known)
    assert missing == LEFT_OUT.get((package, name), set())
    shortcuts = set(known) - options - {"config", "unknown", "run_folder", "a", "b", "answers"}
    assert {SHORTCUTS[short].partition(".")[0] for short in shortcuts} <= options
    assert known["unknown"].kind is inspect.Parameter.VAR_KEYWORD
    told = inspect.getdoc(getattr(PACKAGES[package], name))
    assert told is not None
    assert "Args:" in told


def test_every_option_of_export_is_an_argument() -> None:
    options = {item.name for item in fields(PROGRAMS["export"].config_type)}
    assert options == set(inspect.signature(export_run).parameters) - {"run", "config", "unknown"}


# How arguments become a configuration.


def age(name: str = "train", **given: Any) -> Any:
    """Return the configuration of an age command."""
    return read_keywords(commands_of("agecls")[name], f"crl age {name}", given).config


def test_sections_are_dictionaries_dataclasses_or_names() -> None:
    told = age(data={"root": "faces"}, loss="crl:alpha=1", head="bilinear", train={"milestones": (8, 9)})
    assert told.data == AgeDataConfig(root="faces")
    assert told.loss == LossConfig("crl", {"alpha": 1})
    assert told.head == HeadConfig("bilinear")
    assert told.train == AgeTrainConfig(milestones=(8, 9))
    own = AgeTrainConfig(epochs=3, lr=1e-5, frozen_epochs=1)
    assert age(
        train=own, loss=LossConfig("focal", {"gamma": 1.5}), model=ModelConfig(drop_rate=0.5)
    ) == AgeConfig(train=own, loss=LossConfig("focal", {"gamma": 1.5}), model=ModelConfig(drop_rate=0.5))
    assert age(loss={"name": "crl", "options": {"alpha": np.float64(0.5)}}).loss.options == {"alpha": 0.5}


def test_short_names_stand_for_keys_of_sections() -> None:
    told = age(
        root=Path("faces"), backbone="resnet18", epochs=np.int64(2), seed=3, run_dir="run", train={"lr": 0.1}
    )
    assert (told.data.root, told.model.backbone, told.run.dir) == ("faces", "resnet18", "run")
    assert told.train == AgeTrainConfig(epochs=2, seed=3, lr=0.1)


def test_what_is_given_wins_over_a_recipe_a_file_and_a_configuration(tmp_path: Path) -> None:
    recipe = age(config="paper_resnet34")
    assert age(config="paper_resnet34", epochs=7).train == replace(recipe.train, epochs=7)
    file = tmp_path / "own.yaml"
    file.write_text("loss: {name: crl, options: {alpha: 2}}\ntrain: {epochs: 4}\n")
    assert age(config=file, loss="nllr").loss == LossConfig("nllr")
    assert age(config=file).train.epochs == 4
    own = AgeConfig(loss=LossConfig("crl", {"alpha": 2}, label_smoothing=0.1), train=AgeTrainConfig(epochs=4))
    assert age(config=own) is own
    assert age(config=own, epochs=5) == replace(own, train=AgeTrainConfig(epochs=5))
    assert age(config=own, loss="nllr").loss == LossConfig("nllr", label_smoothing=0.1)
    assert age("cv", config=own).train.epochs == 4  # a single run's options are those of every fold


@pytest.mark.parametrize("package", ["agecls", "finegrained"])
@pytest.mark.parametrize(
    ("given", "loss"),
    [
        ({"loss": "crl"}, LossConfig("crl", label_smoothing=0.1)),
        ({"loss": {"name": "CRL"}}, LossConfig("crl", {"alpha": 2}, label_smoothing=0.1)),
        ({"loss": {"name": "focal"}}, LossConfig("focal", label_smoothing=0.1)),
        ({"loss": {"alpha": 3}}, LossConfig("crl", {"alpha": 3}, label_smoothing=0.1)),
        ({"head": {"name": "cosface"}}, LossConfig("crl", {"alpha": 2}, label_smoothing=0.1)),
    ],
)
def test_a_configuration_is_overridden_as_its_file_is(
    package: str, given: dict[str, Any], loss: LossConfig, tmp_path: Path
) -> None:
    command = commands_of(package)["train"]
    own = command.config_type(
        loss=LossConfig("crl", {"alpha": 2}, label_smoothing=0.1),
        head=HeadConfig("linear", (), {"dropout": 0.5}),
    )
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(to_dict(own)))
    calls = [read_keywords(command, "crl train", {"config": start, **given}) for start in (own, file)]
    assert calls[0].config == calls[1].config
    assert calls[0].config.loss == loss
    head = HeadConfig("cosface") if "head" in given else own.head
    assert calls[0].config.head == head
    words = shlex.split(calls[0].line)[2:]
    assert parse_options(command.config_type, words, prog="", about="")[0] == calls[0].config


def test_a_general_configuration_is_overridden_as_its_file_is(tmp_path: Path) -> None:
    command = commands_of("generalcls")["train"]
    (tmp_path / "own.yaml").write_text("loss: crl:alpha=2:beta=0.5\n")
    for start in (command.config_type(loss="crl:alpha=2:beta=0.5"), tmp_path / "own.yaml"):
        for given, loss in (
            ({"options": {"alpha": 3}}, "crl:alpha=3:beta=0.5"),
            ("nllr", "nllr"),
            ({"name": "crl"}, "crl"),
        ):
            assert read_keywords(command, "crl", {"config": start, "loss": given}).config.loss == loss


def test_the_recorded_command_does_the_same() -> None:
    command = commands_of("agecls")["study"]
    given = {
        "losses": ["crl:alpha=1", "cel"],
        "root": "my faces",
        "seeds": 2,
        "model": ModelConfig(weights="none"),
    }
    call = read_keywords(command, "crl age study", given)
    assert call.line.startswith("crl age study ")
    assert parse_options(command.config_type, shlex.split(call.line)[3:], prog="", about="")[0] == call.config
    with call.running():
        assert command_line() == call.line
    assert command_line() != call.line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"unknown": {"epoch": 3}, "epochs": None}, r"^unknown keyword epoch \(did you mean epochs\?\)$"),
        ({"train": {"epoch": 3}}, r"^unknown key train\.epoch \(did you mean epochs\?\)$"),
        ({"train": {"epochs": "many"}}, r"^train\.epochs must be int, got many$"),
        ({"train": {"schedule": "cosin"}}, r"^train\.schedule must be one of .*\(did you mean cosine\?\)$"),
        ({"train": {"lr": object()}}, "a number, text, a list or keys and values, got object"),
        ({"data": 3}, r"^data must be AgeDataConfig or keys and values, or a name, got int '3'$"),
        ({"head": 3}, "HeadConfig or keys and values, or a name, got int"),
        (
            {"data": TrainConfig()},
            "data must be AgeDataConfig or keys and values, or a name, got TrainConfig",
        ),
        ({"root": "a", "data": {"root": "b"}}, r"^root and data both give data\.root: leave one out$"),
        ({"loss": "crl:alhpa=1"}, r"did you mean alpha\?"),
        ({"config": "paper_resnet43"}, "no such file; recipes by name: modern, "),
        ({"config": 3}, "config must be AgeConfig, the name of a recipe or a YAML file, got int"),
        ({"train": {"frozen_epochs": 40}}, r"must lie in \[0, 30\], got 40"),
    ],
)
def test_arguments_that_cannot_be_right(given: Mapping[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as refused:
        age(**given)
    assert "--" not in str(refused.value)


def test_the_functions_refuse_as_their_commands_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown keyword epohcs \(did you mean epochs\?\)"):
        agecls.train(epohcs=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"results: give run\.dir FOLDER"):
        finegrained.train(root=tmp_path)
    with pytest.raises(UsageError, match=r"did you mean digits\?"):
        generalcls.train(data="digit")
    with pytest.raises(UsageError, match="here every fold is run"):
        agecls.cross_validate(agecls.door.CrossValidationConfig(folds=(0,)), root=tmp_path, run_dir="x")
    with pytest.raises(UsageError, match="a run is its folder or its result, got int"):
        agecls.evaluate(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a side is an empty list"):
        agecls.compare([], tmp_path)
    with pytest.raises(DataError, match="holds no finished run"):
        generalcls.load_result(tmp_path)
    with pytest.raises(CrlError):
        agecls.load_result(tmp_path)


# Calls that name what is not there, and what is said; one process makes them all.
MODEL = dict(backbone="resnet_34", weights="best.pth")
ALL_AT_ONCE = ["data.root no: there is no such folder", "model.weights best.pth: there is no such file"]
ALL_AT_ONCE += ["no timm model is called 'resnet_34'; did you mean"]
ABSENT: dict[str, tuple[str, str, list[str]]] = {
    name: (
        f"agecls.{name}(root='no', run_dir='x', model={MODEL}, lr=-1)",
        "UsageError",
        [*ALL_AT_ONCE, "lr must"],
    )
    for name in ("train", "cross_validate", "study")
} | {
    "file": ("finegrained.train('own.yaml')", "DataError", ALL_AT_ONCE),
    "verify": (
        "agecls.verify(root='no--where')",
        "DataError",
        ["data.root no--where: there is no such folder"],
    ),
    "table": (
        "finegrained.verify(table='no.csv')",
        "DataError",
        ["data.table no.csv: there is no such file"],
    ),
    "evaluate": ("agecls.evaluate('x', root='no')", "DataError", ALL_AT_ONCE[:1]),
    "no run": ("finegrained.evaluate('x')", "DataError", ["x is not the result"]),
    "general": (
        "generalcls.train(data='svhn', root='no', network='timm/nope', run_dir='x')",
        "DataError",
        [ALL_AT_ONCE[0], "no timm model is called 'nope'"],
    ),
    "general study": ("generalcls.study(network='mpl', run_dir='x')", "UsageError", ["did you mean mlp"]),
    "exported": ("export_run('x')", "UsageError", ["there is no folder x"]),
}
ABSENT_PROGRAM = """
import json, sys
import agecls, finegrained, generalcls
from apps.session import export_run
from finetune.errors import CrlError
answers = []
for words in json.load(sys.stdin):
    try:
        eval(words)
    except CrlError as error:
        answers.append([type(error).__name__, str(error), "torch" in sys.modules])
json.dump(answers, sys.stdout)
"""


def test_what_is_not_there_is_told_before_anything_heavy(tmp_path: Path) -> None:
    own = {"data": {"root": "no"}, "run": {"dir": "x"}, "model": MODEL}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    asked = json.dumps([words for words, _, _ in ABSENT.values()])
    program = [sys.executable, "-c", ABSENT_PROGRAM]
    ours = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(program, cwd=tmp_path, input=asked, capture_output=True, text=True, env=ours)
    assert done.returncode == 0, done.stderr
    for (words, kind, parts), (found, told, heavy) in zip(
        ABSENT.values(), json.loads(done.stdout), strict=True
    ):
        assert (found, heavy) == (kind, False), (words, told)
        assert all(part in told for part in parts), (words, told)
        assert not {"--data", "--model", "--run.dir", "--network"} & set(re.findall(r"--[a-z.]+", told))
    assert list(tmp_path.iterdir()) == [tmp_path / "own.yaml"]


def test_a_configuration_object_is_looked_through_as_well(tmp_path: Path) -> None:
    own = AgeConfig(data=AgeDataConfig(root="no"), model=ModelConfig(**MODEL))
    with pytest.raises(UsageError) as refused:
        agecls.train(own)
    assert all(part in str(refused.value) for part in [*ALL_AT_ONCE, "give run.dir FOLDER"])


def test_a_loaded_timm_is_asked_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no timm model is called 'resnet_34'; did you mean"):
        finegrained.train(root=tmp_path, run_dir=tmp_path / "run", backbone="resnet_34")
    with pytest.raises(UsageError, match=r"no timm model is called 'nope'"):
        generalcls.train(network="timm/nope", run_dir=tmp_path / "run")


def test_what_the_system_refuses_is_an_expected_error() -> None:
    call = read_keywords(commands_of("agecls")["train"], "crl age train", {})
    with pytest.raises(ResourceError, match="Choose a place with room"), call.running():
        raise PermissionError(13, "Permission denied", "runs")


# Everything twice in one process.


@dataclass(frozen=True)
class Made:
    """Tiny data, and two finished runs of each task."""

    folder: Path
    table: Path
    birds: Path
    ages: tuple[TaskResult, TaskResult]
    fines: tuple[TaskResult, TaskResult]

    @property
    def age(self) -> dict[str, Any]:
        """The options of a tiny age run: two folds."""
        return {**TINY, "data": age_data(self.table), "loss": "crl:alpha=1"}

    @property
    def fine(self) -> dict[str, Any]:
        """The options of a tiny run on birds."""
        return {**TINY, "data": {"root": self.birds, "subset": True}}


def age_data(table: Path) -> dict[str, Any]:
    """Return the data section of a table of two folds."""
    columns = {
        "group_column": "group",
        "user_column": "user",
        "gender_column": "gender",
        "fold_column": "fold",
    }
    return {"table": table, **columns}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    quiet()
    folder = tmp_path_factory.mktemp("door")
    table = as_table(drawn_faces(folder / "faces", images_per_subject=1), folder / "faces" / "faces.csv")
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], *(f"{line[:-1]}{int(line[-1]) % 2}" for line in lines[1:])]) + "\n")
    found = birds(folder / "birds", per_class=4)
    ages, fines = [], []
    for loss in ("cel", "crl"):
        own: dict[str, Any] = {**TINY, "loss": loss}
        ages.append(agecls.train(**own, data=age_data(table), run=place(folder, f"age-{loss}")))
        data = {"root": found, "subset": True}
        fines.append(finegrained.train(**own, data=data, run=place(folder, f"fine-{loss}")))
    reset()
    return Made(folder, table, found, (ages[0], ages[1]), (fines[0], fines[1]))


Run = Callable[[Made, Path], Any]
AGE_SHOWN = {"workers": 0, "cache": "none", "device": "cpu", "evaluate": {"test_crops": "flip"}}
STUDY: dict[str, Any] = {"losses": ["cel", "crl"], "seeds": 1, "controls": False}
SEARCH: dict[str, Any] = {"lr": [0.02], "head_lr_multiplier": [10.0]}
SLOW = {
    "agecls.study",
    "finegrained.study",
    "agecls.tune",
    "finegrained.tune",
}  # some ten seconds; generalcls.study stays in the default run


def copied(result: TaskResult, out: Path) -> Path:
    """Return a copy of a run's folder, to which a command may add."""
    return shutil.copytree(result.folder, out / "run")


CALLS: dict[str, Run] = {
    "agecls.verify": lambda made, _: agecls.verify(data=age_data(made.table)),
    "agecls.train": lambda made, out: agecls.train(**made.age, run=place(out)),
    "agecls.cross_validate": lambda made, out: agecls.cross_validate(**made.age, run=place(out)),
    "agecls.evaluate": lambda made, _: agecls.evaluate(made.ages[0], **AGE_SHOWN),  # type: ignore[arg-type]
    "agecls.calibrate": lambda made, out: agecls.calibrate(copied(made.ages[0], out)),
    "agecls.compare": lambda made, out: agecls.compare(*made.ages, out=out / "compare", resamples=50),
    "agecls.audit_ages": lambda _, out: agecls.audit_ages(
        write_csv(out / "theirs.csv", spread_answers(60)), resamples=5, permutations=2, seed=1
    ),
    "agecls.study": lambda made, out: agecls.study(**made.age, **STUDY, cell="train", run=place(out)),
    "agecls.tune": lambda made, out: agecls.tune(
        **{**made.age, "data": {**age_data(made.table), "fold": -1}}, search=SEARCH, run=place(out)
    ),
    "agecls.load_result": lambda made, _: agecls.load_result(made.ages[0].folder),
    "finegrained.verify": lambda made, _: finegrained.verify(data=made.fine["data"]),
    "finegrained.train": lambda made, out: finegrained.train(**made.fine, run=place(out)),
    "finegrained.evaluate": lambda made, _: finegrained.evaluate(
        made.fines[0].folder, device="cpu", workers=0, cache="none", evaluate={"test_crops": "flip"}
    ),
    "finegrained.calibrate": lambda made, out: finegrained.calibrate(copied(made.fines[0], out)),
    "finegrained.compare": lambda made, out: finegrained.compare(
        str(made.fines[0].folder), made.fines[1], out=out / "compare", resamples=50, pictures=False
    ),
    "finegrained.study": lambda made, out: finegrained.study(**made.fine, **STUDY, run=place(out)),
    "finegrained.tune": lambda made, out: finegrained.tune(**made.fine, search=SEARCH, run=place(out)),
    "finegrained.load_result": lambda made, _: finegrained.load_result(made.fines[1].folder),
    "finegrained.measure_costs": lambda _, out: finegrained.measure_costs(
        heads=["linear"],
        backbones=["test_resnet"],
        image_size=32,
        repeats=0,
        device="cpu",
        out=out / "cost.md",
    ),
    "generalcls.verify": lambda _, __: generalcls.verify(data="digits", quick=True),
    "generalcls.train": lambda _, out: generalcls.train(
        **TINY_DIGITS, loss="crl:alpha=1", run_dir=out / "run"
    ),
    "generalcls.study": lambda _, out: generalcls.study(**TINY_DIGITS, **STUDY, run_dir=out / "study"),
    "generalcls.load_result": lambda _, out: generalcls.load_result(
        generalcls.train(**TINY_DIGITS, run_dir=out / "run").folder
    ),
}


def state() -> tuple[Any, ...]:
    """Return what belongs to the whole process: signals, torch's state and switches, the command's words."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    switches = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
    return handlers, switches, torch.get_rng_state().sum().item(), torch.get_num_threads(), list(sys.argv)


def test_every_function_is_called() -> None:
    assert set(CALLS) == {f"{package}.{name}" for package, door in PACKAGES.items() for name in door.__all__}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.exhaustive] if name in SLOW else []) for name in CALLS]
)
def test_every_function_can_be_called_twice_and_from_any_thread(
    name: str, made: Made, tmp_path: Path
) -> None:
    before = state()
    (tmp_path / "first").mkdir()
    first = CALLS[name](made, tmp_path / "first")
    assert state() == before
    found: list[Any] = []
    (tmp_path / "second").mkdir()
    thread = threading.Thread(target=lambda: found.append(CALLS[name](made, tmp_path / "second")))
    thread.start()
    thread.join()
    assert state() == before
    [second] = found
    assert type(second) is type(first)
    assert "|" in first._repr_markdown_()
    if isinstance(first, TaskResult):
        np.testing.assert_array_equal(first.predictions.probs, second.predictions.probs)
        assert first.scores == second.scores
    else:
        assert list(first) == list(second)


# What comes back.


def test_a_result_has_scores_a_table_and_a_report(made: Made) -> None:
    result = made.ages[1]
    assert result.scores["exact"] == pytest.approx(100 * result.predictions.correct.mean())
    assert list(result.scores)[:2] == ["exact", "one_off"]
    assert not {"kind", "title", "pictures", "command"} & set(result.scores)
    table = result.predictions.table()
    assert list(table)[:2] == ["path", "subject"]
    names, row = result.class_names, 3
    assert table["target"][row] == names[result.predictions.target[row]]
    assert table["predicted"][row] == names[result.predictions.preds[row]]
    assert table["probability"][row] == table[f"probability of {table['predicted'][row]}"][row]
    assert {len(column) for column in table.values()} == {len(result.predictions)}
    assert result.record.command.startswith("crl age train --")  # type: ignore[union-attr]
    assert "crl" in repr(result)


def test_a_report_that_is_missing_is_written(made: Made) -> None:
    result = agecls.load_result(made.ages[0].folder)
    written = (result.folder / "report.md").read_bytes()
    (result.folder / "report.md").unlink()
    page = result.report()
    assert Path(page) == result.folder / "report.md"
    assert (result.folder / "report.md").read_bytes() == written
    assert str(page) == Path(page).read_text()
    assert str(page).startswith("# Age groups")


def test_a_cross_validation_scores_by_the_mean_of_its_folds(made: Made, tmp_path: Path) -> None:
    result = agecls.cross_validate(**made.age, run=place(tmp_path))
    folds = [
        float(result.predictions.select(result.predictions.fold == fold).correct.mean()) for fold in (0, 1)
    ]
    assert result.scores["exact"] == pytest.approx(100 * np.mean(folds))
    assert result.folds == [0, 1]
    again = agecls.cross_validate(**made.age, run={**place(tmp_path), "resume": "auto"})
    assert again.scores == result.scores
    written = (result.folder / "report.md").read_bytes()
    assert b"always " in written  # the majority-class baseline, of the labels that each fold was trained on
    (result.folder / "report.md").unlink()
    again.report()
    assert (result.folder / "report.md").read_bytes() == written


def test_an_evaluation_has_its_predictions(made: Made) -> None:
    found = agecls.evaluate(made.ages[0])
    np.testing.assert_array_equal(found.predictions.probs, made.ages[0].predictions.probs)
    assert found["exact"] == found.scores["exact"]
    with pytest.raises(DataError, match="has no report"):
        found.report()


def test_seeds_are_compared_by_lists(made: Made, tmp_path: Path) -> None:
    other = finegrained.train(**made.fine, run=place(tmp_path, "b"), seed=1)
    found = finegrained.compare(
        [made.fines[0], other], [other, made.fines[0]], out=tmp_path / "c", pictures=False
    )
    assert found["seeds"] == [0, 1]


def test_a_general_result(tmp_path: Path) -> None:
    result = generalcls.train(**TINY_DIGITS, loss="crl:alpha=2", seed=4, run_dir=tmp_path / "run")
    assert result["seed"] == 4
    assert result["loss"]["alpha"] == 2
    assert result.scores["accuracy"] == pytest.approx(100 * result.predictions["correct"].mean())
    found = result.predictions
    np.testing.assert_array_equal(found["correct"], found["target"] == found["predicted"])
    assert str(result.report()).startswith("# logistic on digits")
    assert "accuracy" in result._repr_markdown_()


@pytest.mark.parametrize(
    ("stored", "called"),
    [
        ({"loss": {"name": "nllr", "clamp": None}}, "nllr, exact"),
        ({"loss": {"name": "nllr", "clamp": 1e-7}, "head": "linear"}, "nllr (clamp 1e-07)"),
        ({"loss": {"name": "cel"}, "head": "lsoftmax"}, "lsoftmax"),
    ],
)
def test_a_general_result_is_called_by_what_was_trained(
    stored: dict[str, Any], called: str, tmp_path: Path
) -> None:
    record = {"kind": "general_run", "network": "mlp", "data": "digits", **stored}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert generalcls.load_result(tmp_path).title == f"mlp on digits with {called}"


def test_a_page_carries_its_figures(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a b.png").write_bytes(b"png")
    (tmp_path / "page.md").write_text(
        "# T\n\n![A](pictures/a%20b.png) ![B](pictures/none.png) ![C](https://x.org/c.png)\n"
    )
    shown = Page(tmp_path / "page.md")._repr_markdown_()
    assert f"![A](data:image/png;base64,{base64.b64encode(b'png').decode()})" in shown
    assert "![B](pictures/none.png) ![C](https://x.org/c.png)" in shown


def test_an_outcome_shows_its_conclusion_and_single_values(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# T\n")
    content = {"conclusion": ["One.", "Two <b>."], "n": 3, "p": 0.123456, "rows": [1, 2], "flag": True}
    outcome = Outcome(content, "a_title", tmp_path / "page.md")
    shown = outcome._repr_markdown_()
    assert shown.startswith("**a\\_title**\n\nOne. Two &lt;b&gt;.")
    assert "| n | 3 |" in shown
    assert "| p | 0.1235 |" in shown
    assert not {"rows", "flag"} & set(re.findall(r"\w+", shown))
    assert Path(outcome.report()) == tmp_path / "page.md"
    assert dict(outcome) == content

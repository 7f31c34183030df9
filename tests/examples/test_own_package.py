"""A task, a head and a logger of another package: found by entry points, no line changed in the toolkit."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.cli import main
from apps.export.card import write_card
from finetune.cli.command import choose_command
from finetune.cli.console import reset
from finetune.experiments import task as tasks
from finetune.experiments.exported.lookup import open_result
from finetune.images.decode import decode_image
from finetune.images.preprocess import preprocess
from finetune.models.heads import registry as heads
from finetune.training.loggers import RunFacts, logger_names
from tests.apps.tiny_onnx import SPEC, expected_probs, tiny_facts, write_tiny

PACKAGE = Path(__file__).resolve().parents[2] / "examples" / "own_package"
PARTS = {"train": 8, "val": 2, "test": 6}
TINY = ["--model.backbone=test_resnet", "--model.weights=none", "--model.image_size=32", "--device=cpu"]
TINY += [
    "--train.epochs=1",
    "--train.batch_size=8",
    "--train.warmup_epochs=0",
    "--run.workers=0",
    "--run.cache=none",
]


def draw(root: Path) -> Path:
    """Write images of lying and of standing stripes, each part with images of its own."""
    rng = np.random.default_rng(0)
    for part, count in PARTS.items():
        for name in ("lying", "standing"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                stripes = np.tile(np.arange(32)[:, None] // 4 % 2 * 160, (1, 32)) + rng.integers(
                    0, 90, (32, 32)
                )
                image = stripes if name == "lying" else stripes.T
                Image.fromarray(image.astype(np.uint8)).convert("RGB").save(folder / f"{number}.png")
    return root


def forget() -> None:
    """Let entry points be read again, and drop the package's modules."""
    tasks._entry_points.cache_clear()
    heads.head_points.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "stripes"]:
        del sys.modules[name]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the package as pip would: its modules on the path, and its metadata beside them."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    told = tmp_path / "site" / f"{project['name']}-{project['version']}.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in project["entry-points"].items()
    ]
    (told / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(PACKAGE)
    monkeypatch.syspath_prepend(told.parent)
    forget()
    yield
    monkeypatch.undo()
    forget()
    reset()


def stripes(*words: object) -> int:
    """Run a command of the package in this process."""
    from stripes.__main__ import COMMANDS

    return choose_command(COMMANDS, [str(word) for word in words], prog="python -m stripes")


def test_the_table_of_the_logger_holds_no_formula(installed, tmp_path):
    from stripes.logger import CsvLogger

    logger = CsvLogger()
    logger.begin(RunFacts(tmp_path, {}, {}, {}, "cpu", 2))
    logger.row({"epoch": 0, "loss": -0.5, "note": "=1+1"})
    logger.row({"epoch": 1, "loss": None})
    text = (tmp_path / "metrics.csv").read_bytes()
    assert text == b"epoch,loss,note\n0,-0.5,'=1+1\n1,,\n"


def test_a_task_of_another_package_trains_reports_evaluates_and_compares(installed, tmp_path, capsys):
    root, runs = draw(tmp_path / "images"), [tmp_path / "cel", tmp_path / "crl"]
    assert stripes("verify", f"--data.root={root}") == 0
    assert "folders: 32 images of 2 classes: 16 train, 4 validation, 12 test" in capsys.readouterr().out
    for run in runs:
        words = [f"--data.root={root}", f"--run.dir={run}", "--loss", run.name, *TINY]
        words += ["--head.name=cosine", "--head.options.scale=5", "--run.track=[csv]"]
        assert stripes("train", *words) == 0
        assert (run / "metrics.csv").read_text(encoding="utf-8").startswith("epoch,")
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        assert (report["kind"], report["head"], report["head_options"]) == (
            "stripes_run",
            "cosine",
            {"scale": 5},
        )
        assert (report["n"], report["n_train"], report["policy"]) == (12, 16, "folders")
        page = (run / "report.md").read_text(encoding="utf-8")
        assert page.startswith("# Stripes: cosine on test\\_resnet with ")
        assert "## Result" in page
        assert "pictures/reliability.png" in page
    assert stripes("evaluate", runs[0], f"--out={tmp_path / 'again'}") == 0
    again = json.loads((tmp_path / "again" / "evaluation.json").read_text(encoding="utf-8"))
    capsys.readouterr()
    assert stripes("compare", *runs, "--resamples=20", "--json") == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["changed"] == "loss"
    assert compared["accuracy"]["a"] == pytest.approx(again["accuracy"])
    assert "accuracy" in Path(compared["page"]).read_text(encoding="utf-8")
    task, result = open_result(runs[0])
    assert (task.name, len(result.predictions)) == ("stripes", 12)


def stripes_file(folder: Path, **changes: Any) -> Path:
    """Write an exported model of stripes by hand."""
    facts = {
        "title": "my stripes", "task": "stripes", "class_names": ("lying", "standing"), "ordered": False,
        "crop": None, "data": {}, "metrics": {"n": 12, "accuracy": 75.0}, "card": {},
    }  # fmt: skip
    return write_tiny(folder / "stripes.onnx", tiny_facts(**(facts | changes)))


def crl(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[str, str]:
    """Run `crl` in this process and return standard output and standard error."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    told = capsys.readouterr()
    return told.out, told.err


def test_a_model_of_another_package_is_scored_on_other_data(installed, tmp_path, capsys):
    root, file = draw(tmp_path / "images"), stripes_file(tmp_path)
    out, _ = crl(capsys, "evaluate-onnx", file, f"--data.root={root}", "--device=cpu", "--json")
    found = json.loads(out)
    assert (found["data"], found["n"]) == ("12 test images of the data", 12)
    pictures = sorted((root / "test").glob("*/*.png"))
    prepared = np.stack([preprocess(decode_image(picture), SPEC) for picture in pictures])
    right = expected_probs(prepared, 2).argmax(axis=1) == np.repeat([0, 1], 6)
    assert found["accuracy"] == found["models"][0]["accuracy"] == pytest.approx(100 * right.mean())
    wanted = ["evaluate-onnx", file, f"--data.root={root}", "--data.groups=0-2,3-5", "--device=cpu"]
    assert "--data.groups: not for data of Stripes" in crl(capsys, *wanted, code=2)[1]
    other = stripes_file(tmp_path, class_names=("lying", "leaning"))
    _, err = crl(capsys, "evaluate-onnx", other, f"--data.root={root}", "--device=cpu", code=4)
    assert "only in the data 1 (standing); only in the model 1 (leaning)" in err


def test_the_demo_has_a_tab_for_a_task_of_another_package(installed):
    from apps.demo.models import scores
    from apps.demo.startup import tabs

    assert list(tabs(())) == ["age", "category"]
    assert tabs(("stripes",))["stripes"] == "Stripes"
    assert scores({"n": 12, "accuracy": 75.0}) == "accuracy 75.0 % (12 test images)"


def test_a_model_of_a_package_that_is_absent_answers_and_is_not_scored(tmp_path, capsys):
    forget()
    root, file = draw(tmp_path / "images"), stripes_file(tmp_path)
    out, _ = crl(capsys, "predict", file, root / "test" / "lying" / "0.png", "--device=cpu")
    assert "lying" in out
    _, err = crl(capsys, "evaluate-onnx", file, f"--data.root={root}", "--device=cpu", code=2)
    assert "is a model of the task 'stripes', which is not installed; there are age, category" in err
    facts = tiny_facts(task="stripes", class_names=("lying", "standing"), card={})
    assert "one of two: lying, standing" in write_card(facts, "m.onnx", "ab", 1)


def test_a_run_of_another_package_is_exported_with_its_card(installed, tmp_path, capsys):
    root, run = draw(tmp_path / "images"), tmp_path / "run"
    assert stripes("train", f"--data.root={root}", f"--run.dir={run}", *TINY, "--head.name=cosine") == 0
    crl(capsys, "export", run, "--title=my stripes")
    (file,) = run.glob("export/model/*.onnx")
    card = (file.parent / "README.md").read_text(encoding="utf-8")
    accuracy = json.loads((run / "report.json").read_text(encoding="utf-8"))["accuracy"]
    for line in (
        "This model takes an image and names its class, one of two: lying, standing.",
        f"Its accuracy is {accuracy:.1f} % on 12 test images.",
        f"| accuracy | {accuracy:.1f} % |",
        "| data | folders; 32 images, 2 classes |",
        "| split | 16 training images; 4 validation images; 12 test images |",
        "also one that shows none of the classes.",
        "send no image anywhere",
    ):
        assert line in card
    assert re.findall(r"\b(?:faces?|ages?|categor\w+|subjects?)\b", card.replace("augment face", "")) == []
    out, _ = crl(capsys, "evaluate-onnx", file, f"--run={run}", "--device=cpu", "--json")
    assert json.loads(out)["pooled"]["fp32"]["accuracy"] == pytest.approx(accuracy)
    out, _ = crl(capsys, "evaluate-onnx", file, f"--data.root={root}", "--device=cpu", "--json")
    assert json.loads(out)["accuracy"] == pytest.approx(accuracy)


@pytest.mark.exhaustive
def test_a_task_of_another_package_is_studied(installed, tmp_path):
    root, run = draw(tmp_path / "images"), tmp_path / "study"
    words = [f"--data.root={root}", f"--run.dir={run}", "--losses=[crl]", "--seeds=2", "--no-controls", *TINY]
    assert stripes("study", *words) == 0
    assert (run / "report.md").read_text(encoding="utf-8").startswith("# Losses compared: Stripes")


def test_a_task_says_only_what_is_its_own(installed):
    from stripes.task import StripesTask

    functions = {name for name, value in vars(StripesTask).items() if isinstance(value, FunctionType)}
    assert {name for name in functions if not name.startswith("_")} == {
        "read",
        "splits",
        "scores",
        "sections",
        "tell",
    }


def test_all_are_listed_beside_the_toolkit_s_own(installed):
    assert "stripes" in tasks.task_names()
    assert "cosine" in heads.head_names()
    assert "csv" in logger_names()
    assert heads.resolved("cosine", {}) == {"scale": 10.0}


def test_without_the_package_none_is_there():
    forget()
    assert "stripes" not in tasks.task_names()
    assert "cosine" not in heads.head_names()
    assert "csv" not in logger_names()

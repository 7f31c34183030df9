"""What the code of commit 68a5ef6 left is still read: results, studies, stopped runs, models and settings.

Only the command line is used, so these tests stay as they are when modules move; old_formats/README.md tells
how the files were made.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from apps.cli import main
from tests.old_formats import tiny_net

OLD = Path(__file__).parent / "old_formats"
ARM = "crl-alpha1-beta1"
AGE_MODEL = "age_cv_crl/export/fold0/age.onnx"
FINE_RUN = f"fine_study/cells/{ARM}/seed-0"
FINE_MODEL = f"{FINE_RUN}/export/model/fine.onnx"
# Another build of a library moves the last digits of a float64, and a training more than that.
DIGITS, SAME_PROBABILITY = 9, 0.02
# What tells of this moment and this machine.
PASSING = ("command", "minutes", "seconds", "device", "versions", "threads", "precision")
PASSING_LINE = re.compile(r"[Cc]ommand|[Vv]ersions|\b[Dd]evice\b|\bcpu\b|TIME")

assert tiny_net.NAME  # importing it registers the network


@pytest.fixture(autouse=True)
def bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Work in an empty folder on one thread; called with names, it brings these old folders there."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def copy(*names: str) -> None:
        for name in names:
            shutil.copytree(OLD / name, name)
        for file in (place for place in Path().rglob("*") if place.suffix in (".json", ".yaml", ".md")):
            file.write_text(file.read_text(encoding="utf-8").replace("@HERE@", str(tmp_path)), "utf-8")
        with zipfile.ZipFile(OLD / "images.zip") as archive:
            archive.extractall()

    yield copy
    torch.set_num_threads(threads)


def crl(capsys: pytest.CaptureFixture[str], words: str, code: int = 0) -> tuple[str, str]:
    """Run `crl` in this process, check its exit code, and return standard output and standard error."""
    capsys.readouterr()
    got = main(shlex.split(words))
    out, err = capsys.readouterr()
    assert got == code, err
    assert "Traceback" not in err
    return out, err


def rounded(value: Any) -> Any:
    """Return a JSON value with its floats to nine digits, and without what passes."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key not in PASSING}
    if isinstance(value, list):
        return [rounded(item) for item in value if not (isinstance(item, str) and PASSING_LINE.search(item))]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def read(file: Path | str) -> Any:
    """Return what a JSON file holds, comparable."""
    text = Path(file).read_text(encoding="utf-8").replace(str(Path.cwd()), "@HERE@")
    return rounded(json.loads(text))


def plain(file: Path | str) -> str:
    """Return a report's text without minutes, dates, the machine and how it was called."""
    text = Path(file).read_text(encoding="utf-8")
    text = re.sub(r"\b\d+(?:\.\d+)?(?:e-?\d+)? (?:s|min|minutes?|seconds?|h)\b", "TIME", text)
    return "\n".join(line for line in text.splitlines() if not PASSING_LINE.search(line))


def json_lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a file that holds one a line."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def probabilities(file: Path | str) -> dict[str, np.ndarray]:
    """Return the probabilities of every image, by its path."""
    table = pq.read_table(file)
    names = [name for name in table.column_names if name.startswith("prob_")]
    probs = np.stack([table[name].to_numpy() for name in names], axis=1)
    return dict(zip(table["path"].to_pylist(), probs, strict=True))


def assert_same_predictions(first: Path | str, second: Path | str) -> None:
    """Assert that two files hold about the same probabilities of the same images."""
    ours, theirs = probabilities(first), probabilities(second)
    assert ours.keys() == theirs.keys()
    assert all(np.allclose(ours[path], theirs[path], rtol=0, atol=SAME_PROBABILITY) for path in ours)


def seeds(study: str) -> str:
    """Return the words that compare CRL with cross-entropy over the two seeds of a study."""
    sides = [",".join(f"{study}/cells/{arm}/seed-{seed}" for seed in (0, 1)) for arm in ("cel", ARM)]
    return " ".join(sides)


COMPARISONS = {
    "age": ("age_cv_cel", "age_cv_crl", "age compare age_cv_cel age_cv_crl"),
    "age_seeds": ("age_study", f"age compare {seeds('age_study')}"),
    "fine": ("fine_study", f"fine compare fine_study/cells/cel/seed-0 {FINE_RUN}"),
    "fine_seeds": ("fine_study", f"fine compare {seeds('fine_study')}"),
}


def in_todays_form(comparison: dict[str, Any]) -> dict[str, Any]:
    """Return an old comparison as it is written today: both tasks name the measure where one task did not.

    The conclusion is left out: its words changed.
    """
    age = "exact" in comparison
    new = {key: value for key, value in comparison.items() if key != "conclusion"}
    for measure in ("exact", "one_off") if age else ():
        new[measure] = {key: value for key, value in new[measure].items() if value is not None}
    for row in new.get("per_seed", ()):
        for measure in ("exact", "one_off", "top1"):
            if measure in row:
                row[measure] = row[measure] if isinstance(row[measure], float) else row[measure]["difference"]
    if "per_seed" in new and not age:
        new["seed_difference"] = {"top1": new["seed_difference"]}
        new["seed_scores"] = {"top1": new["seed_scores"]}
    return new


# What a study's report says in sentences, whose words changed; its numbers stand in other keys too.
PROSE = ("conclusion", "notes", "what_ran")
RENAMED = {"train_push": "train_grad", "train_q": "train_grad_ce"}


def all_p(value: Any) -> set[str]:
    """Return every p of an old comparison as its page had it, with two digits; today it has three."""
    if isinstance(value, list):
        return set().union(*map(all_p, value))
    if not isinstance(value, dict):
        return set()
    own = {f"{value['p']:.2g}"} if isinstance(value.get("p"), float) else set()
    return own.union(*map(all_p, value.values()))


def without_p(value: Any, found: list[float]) -> Any:
    """Return a comparison without the bootstrap's p, which go to `found`: rounding no longer hides a zero."""
    if not isinstance(value, dict):
        return value
    if "interval" in value and value.get("p") is not None:
        found.append(value["p"])
        value = {key: item for key, item in value.items() if key != "p"}
    return {key: without_p(item, found) for key, item in value.items()}


def without_prose(report: dict[str, Any]) -> dict[str, Any]:
    """Return a study's report without its sentences."""
    return {key: value for key, value in report.items() if key not in PROSE}


def keys_today(row: dict[str, Any]) -> set[str]:
    """Return the keys of a row of metrics.jsonl as they are called today."""
    names = {RENAMED.get(key, key) for key in row}
    return names - {"lr"} | {"lr_backbone", "lr_head"} if "lr" in names else names


def numbers(page: Path | str) -> Counter[str]:
    """Return the numbers in the tables of a page."""
    rows = [line for line in plain(page).splitlines() if line.startswith("|")]
    return Counter(re.findall(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?", " ".join(rows)))


def missing_numbers(old: Path | str, new: Path | str) -> Counter[str]:
    """Return the numbers of an old page's tables that a new page does not have as often."""
    return numbers(old) - numbers(new)


@pytest.mark.parametrize("name", COMPARISONS)
def test_two_old_results_compare_as_they_did(
    name: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    *folders, words = COMPARISONS[name]
    bring(*folders)
    crl(capsys, f"{words} --no-pictures --resamples 1000 --out comparisons/{name}")
    new, old = Path("comparisons", name), OLD / "comparisons" / name
    found, wanted = read(new / "comparison.json"), in_todays_form(read(old / "comparison.json"))
    for row in found.get("per_seed", ()):
        row |= {key: value["difference"] for key, value in row.items() if "difference" in str(value)}
    for row, old_row in zip(found.get("per_seed", ()), wanted.get("per_seed", ()), strict=True):
        assert {key: row[key] for key in old_row} == old_row
    found["per_seed"] = wanted.setdefault("per_seed", [])
    for key in ("seed_difference", "seed_scores"):
        for measure, value in wanted.pop(key, {}).items():
            assert found[key][measure] == value
    now: list[float] = []
    before: list[float] = []
    assert without_p({key: found[key] for key in wanted}, now) == without_p(wanted, before)
    assert all(old_p <= p <= old_p + 0.1 for p, old_p in zip(now, before, strict=True))
    assert "No difference in " in found["conclusion"]
    missing = missing_numbers(old / "compare.md", new / "compare.md").keys()
    assert missing <= all_p(read(old / "comparison.json")) | {"+0.00"}  # a zero has no sign today


# What reports of former releases lack.
SINCE = ("adaptive_ece", "threshold_ece", "aurc", "calibration_reference", "temperature", "selective")
SINCE += ("calibration",)


def test_an_old_cross_validation_is_scored_again(
    bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    bring("age_cv_crl")
    for name in ("report.json", "report.md"):
        Path("age_cv_crl", name).unlink()
    crl(capsys, "age cv --config age_cv_crl/config.yaml --run.resume auto")
    new, old = read("age_cv_crl/report.json"), read(OLD / "age_cv_crl/report.json")
    drawn = [*old.pop("pictures"), "pictures/risk_coverage.png"]
    assert (new.pop("not_drawn"), sorted(new.pop("pictures"))) == ([], sorted(drawn))
    for name in SINCE:
        assert new.pop(name) is not None, name
    assert new["decoders"].pop("window")["one_off"] is not None
    assert new.pop("title").endswith("with crl (alpha 1.0, beta 0.5)")
    assert new.pop("schema") == 2  # which counts epochs from 1
    assert new == old
    assert missing_numbers(OLD / "age_cv_crl/report.md", "age_cv_crl/report.md") == {}


@pytest.mark.parametrize("room", ["age", "fine", "general"])
def test_an_old_study_is_reported_again(
    room: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    study = f"{room}_study"
    bring(study)
    for name in ("report.json", "report.md"):
        Path(study, name).unlink()
    out, _ = crl(capsys, f"{room} study --config {study}/config.yaml --run.resume auto")
    assert "epoch 1/" not in out  # nothing is trained
    new, old = (without_prose(read(folder / "report.json")) for folder in (Path(study), OLD / study))
    assert new == old
    assert missing_numbers(OLD / study / "report.md", f"{study}/report.md") == {}


@pytest.mark.parametrize("room", ["age", "fine"])
def test_an_old_stopped_run_goes_on_to_the_same_end(
    room: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    run = f"{room}_unfinished"
    bring(run)
    words = f"{room} train --config {run}/config.yaml --run.resume auto"
    _, err = crl(capsys, f"{words} --loss.alpha 2 --train.lr 0.5", code=2)
    assert f"the configuration differs from the run in {run}:" in err
    assert "loss.options.alpha: 1.0 -> 2.0" in err
    assert "train.lr: " in err
    out, _ = crl(capsys, words)
    assert f"resuming from {run}/checkpoints/last.ckpt: epoch " in out
    assert "epoch 2/6" not in out
    assert_same_predictions(f"{run}/predictions.parquet", OLD / "ends" / room / "predictions.parquet")
    assert Path(run, "model.safetensors").is_file()
    new, old = (json_lines(folder / "metrics.jsonl") for folder in (Path(run), OLD / "ends" / room))
    assert [(row["epoch"], keys_today(row)) for row in new] == [
        (row["epoch"] + 1, keys_today(row))
        for row in old  # which counted epochs from 0
    ]
    assert [row["train_loss"] for row in new] == pytest.approx([row["train_loss"] for row in old], rel=0.02)


@pytest.mark.parametrize(
    "words", ["age evaluate age_cv_crl --out again", f"fine evaluate {FINE_RUN} --out again"]
)
def test_an_old_run_is_evaluated_again(
    words: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    run = words.split()[2]
    bring(run.partition("/")[0])
    crl(capsys, f"{words} --device cpu --cache none")
    assert_same_predictions("again/predictions.parquet", f"{run}/predictions.parquet")


@pytest.mark.parametrize(("model", "run"), [(AGE_MODEL, "age_cv_crl"), (FINE_MODEL, FINE_RUN)])
def test_an_old_onnx_file_predicts_and_repeats_its_run(
    model: str, run: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    bring(run.partition("/")[0])
    crl(capsys, f"evaluate-onnx {model} --run {run} --device cpu --threads 1 --out again")
    stored, again = probabilities(f"{run}/predictions.parquet"), probabilities("again/predictions.parquet")
    assert again
    assert all(np.allclose(probs, stored[path], rtol=0, atol=1e-4) for path, probs in again.items())
    image = json.loads(Path(run, "run.json").read_text())["data_root"] + "/" + min(again)
    crl(capsys, f"predict {model} {shlex.quote(image)} --device cpu --threads 1 --out seen.csv")
    assert len(Path("seen.csv").read_text().splitlines()) == 2


def test_an_old_bundle_is_explained(bring: Callable[..., None], capsys: pytest.CaptureFixture[str]):
    bring("age_cv_crl")
    crl(capsys, "explain age_cv_crl faces/aligned/70000001@N00 --fold 0 --out seen")
    assert len(list(Path("seen").rglob("*.png"))) == len(list(Path("faces/aligned/70000001@N00").iterdir()))


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("words", "file"),
    [("age_cv_crl --fold 0 --title age", AGE_MODEL), (f"{FINE_RUN} --title fine", FINE_MODEL)],
)
def test_an_old_run_is_exported_again(
    words: str, file: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    bring(file.partition("/")[0])
    _, err = crl(capsys, f"export {words}", code=2)
    assert "replace it by --overwrite" in err
    crl(capsys, f"export {words} --overwrite")
    new, old = ((place / file).with_name("README.md") for place in (Path(), OLD))
    told = [re.findall(r"\d+(?:\.\d+)?|nan|not measured", line) for line in plain(new).splitlines()[:20]]
    assert told == [
        re.findall(r"\d+(?:\.\d+)?|nan|not measured", line) for line in plain(old).splitlines()[:20]
    ]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("room", "run"), [("age", f"age_study/cells/{ARM}/seed-0"), ("fine", FINE_RUN)])
def test_an_old_configuration_trains_again_to_the_same_result(
    room: str, run: str, bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    bring(run.partition("/")[0])
    crl(capsys, f"{room} train --config {run}/config.yaml --run.dir again")
    assert_same_predictions("again/predictions.parquet", f"{run}/predictions.parquet")


def test_an_old_general_run_and_its_configuration_are_read(
    bring: Callable[..., None], capsys: pytest.CaptureFixture[str]
):
    bring("general_run")
    _, err = crl(
        capsys, "general train --config general_run/config.yaml --run.resume auto --train.lr 9", code=3
    )
    assert "train.lr: 0.05 -> 9.0" in err
    crl(capsys, "general train --config general_run/config.yaml --run.dir again")
    new, old = (json.loads(Path(place, "run.json").read_text()) for place in ("again", "general_run"))
    assert new.keys() == old.keys() | {"warnings"}

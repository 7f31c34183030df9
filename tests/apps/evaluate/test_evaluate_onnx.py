"""Exported category models on folders of images: labels by name, the test part alone, one way to cut."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agecls.config import AgeDataConfig
from agecls.data.read import read_data
from agecls.scores import age_scores
from apps.config import EvaluateOnnxConfig
from apps.evaluate.evaluate_onnx import evaluate_onnx
from finegrained.scores import fine_scores
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.images.checks import pack_digests
from finetune.images.preprocess import preprocess
from tests.apps.tiny_onnx import GROUPS, SPEC, expected_probs, tiny_facts, write_tiny
from tests.apps.tiny_run import exported, make_run, own, write_pictures

ROOT = Path(__file__).resolve().parents[3]
# The models' order, which is not the folders'; a slash cannot stand in a folder's name.
BIRDS = ("wren", "C/V tern", "auk", "owl", "kite", "jay")
PER_CLASS = 4


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of six images of three people that no model was trained on."""
    write_pictures(tmp_path / "others", 6)
    rows = [f"{number:02}.png,{age},p{number % 3}" for number, age in enumerate((1, 5, 9, 17, 30, 70))]
    file = tmp_path / "others" / "faces.csv"
    file.write_text("path,age,subject\n" + "\n".join(rows) + "\n")
    return file


def others(table: Path, **changes: Any) -> EvaluateOnnxConfig:
    return EvaluateOnnxConfig(data=AgeDataConfig(table=str(table)), device="cpu", **changes)


def test_other_data_is_scored_by_each_model_and_by_all(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
):
    files = [
        write_tiny(tmp_path / f"{seed}.onnx", tiny_facts(title=f"m{seed}"), seed=seed) for seed in (0, 1)
    ]
    found = evaluate_onnx(files, others(table, out=str(tmp_path / "out")))
    images = [cv2.imread(str(tmp_path / "others" / f"{n:02}.png"))[:, :, ::-1] for n in range(6)]
    prepared = np.stack([preprocess(np.ascontiguousarray(image), SPEC) for image in images])
    target = np.array([0, 1, 2, 3, 4, 7])
    wanted = [expected_probs(prepared, seed=seed) for seed in (0, 1)]
    for line, probs in zip(found["models"], wanted, strict=True):
        assert line["exact"] == age_scores(probs, target)["exact"]
        assert line["nll"] == pytest.approx(age_scores(probs, target)["nll"], abs=1e-4)
    assert found["nll"] == pytest.approx(age_scores(np.mean(wanted, axis=0), target)["nll"], abs=1e-4)
    assert [cell["images"] for cell in found["slices"]["group"]] == [1, 1, 1, 1, 1, 0, 0, 1]
    printed = capsys.readouterr().out
    assert "average of all" in printed
    assert "by group" in printed
    assert "MAE (groups)" in printed
    assert (
        f"note: no samples of 2 of 8 classes, which no score covers: 2 ({', '.join(GROUPS[5:7])})" in printed
    )
    assert [found["per_group_recall"][group] for group in (5, 6)] == [None, None]
    assert "warning" not in printed
    written = Predictions.read(tmp_path / "out" / "predictions.parquet", GROUPS)
    np.testing.assert_allclose(written.probs, np.mean(wanted, axis=0), atol=1e-6)


@pytest.mark.parametrize("n_folds", [3, 5])
def test_data_that_was_trained_on_is_told(
    tmp_path: Path, table: Path, n_folds: int, capsys: pytest.CaptureFixture[str]
):
    """Three people make three folds; for five no run can have been trained on them, and nothing fails."""
    lines = [f"{number:02}.png,{5 if number < 3 else 30},p{number % 3}" for number in range(6)]
    table.write_text("path,age,subject\n" + "\n".join(lines) + "\n")
    data = AgeDataConfig(table=str(table), n_folds=n_folds)
    trained_on = read_data(replace(data, n_folds=3)).manifest.fingerprint
    file = write_tiny(tmp_path / "known.onnx", tiny_facts(data={"fold": 0, "manifest": trained_on}))
    evaluate_onnx([file], EvaluateOnnxConfig(data=data, device="cpu"))
    told = "known.onnx was trained on images of this very data" in capsys.readouterr().out
    assert told == (n_folds == 3)


def test_other_classes_than_the_data_s(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]):
    file = write_tiny(tmp_path / "few.onnx", tiny_facts(class_names=GROUPS[:7]))
    asked = others(table)
    data = replace(asked.data, groups="0-20,21-40,41+")
    with pytest.raises(ModelFileError, match=r"model: 0-2, .*; only in the data: 0-20, 21-40, 41\+"):
        evaluate_onnx([file], replace(asked, data=data))
    assert evaluate_onnx([file], asked)["n"] > 0  # by the model's own groups, which is said
    assert "the model's own age groups are used, --data.groups 0-2," in capsys.readouterr().out
    odd = write_tiny(tmp_path / "odd.onnx", tiny_facts(class_names=("young", "old")))
    told = r"only in the data 8 \(0-2, .*60\+\); only in the model 2 \(young, old\)"
    with pytest.raises(ModelFileError, match=rf"odd\.onnx has other classes than the data: {told}"):
        evaluate_onnx([odd], others(table))
    with pytest.raises(ModelFileError, match="have different classes"):
        evaluate_onnx([write_tiny(tmp_path / "all.onnx"), file], others(table))


def test_what_must_be_named(tmp_path: Path, table: Path):
    file = write_tiny(tmp_path / "tiny.onnx")
    with pytest.raises(UsageError, match="no model"):
        evaluate_onnx([], others(table))
    with pytest.raises(UsageError, match="no images: give --run RUN"):
        evaluate_onnx([file], EvaluateOnnxConfig(device="cpu"))
    with pytest.raises(UsageError, match="give one of them"):
        evaluate_onnx([file], others(table, run="somewhere"))
    with pytest.raises(DataError, match="is not the result of a finished run"):
        evaluate_onnx([file], own(tmp_path / "nowhere"))


def test_evaluating_needs_no_torch(run: Path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from apps.config import EvaluateOnnxConfig\n"
        "from apps.evaluate.evaluate_onnx import evaluate_onnx\n"
        "found = evaluate_onnx([Path(sys.argv[2])], EvaluateOnnxConfig(run=sys.argv[1], device='cpu'))\n"
        "assert found['pooled']['fp32']['n'] == 12\n"
        "sys.exit(', '.join({'torch', 'timm', 'albumentations'} & set(sys.modules)) or 0)\n"
    )
    words = [sys.executable, "-W", "error", "-c", code, str(run), str(exported(run, 0))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def bird_facts(**changes: Any) -> Any:
    given = {
        "task": "category",
        "class_names": BIRDS,
        "ordered": False,
        "crop": None,
        "data": {},
        "metrics": {},
    }
    return tiny_facts(**(given | changes))


def write_birds(root: Path, parts: tuple[str, ...] = ("",)) -> dict[str, list[np.ndarray]]:
    """Write a folder per class (in each part) and return the last part's pixels by class."""
    generator = np.random.default_rng(5)
    made: dict[str, list[np.ndarray]] = {}
    for part in parts:
        for name in BIRDS:
            folder = root / part / name.replace("/", "-")
            folder.mkdir(parents=True)
            shape = (40, 50, 3)
            made[name] = [
                (generator.integers(0, 200, 3) + generator.integers(0, 50, shape)).astype(np.uint8)
                for _ in range(PER_CLASS)
            ]
            for number, pixels in enumerate(made[name]):
                cv2.imwrite(str(folder / f"{part}{number}.png"), pixels[:, :, ::-1])
    return made


def shown(root: Path, **changes: Any) -> EvaluateOnnxConfig:
    data = changes.pop("data", {})
    return EvaluateOnnxConfig(data=AgeDataConfig(root=str(root), **data), device="cpu", **changes)


def wanted_scores(made: dict[str, list[np.ndarray]], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities that a tiny model must give, and the targets, in the models' order."""
    prepared = np.stack([preprocess(pixels, SPEC) for name in BIRDS for pixels in made[name]])
    return expected_probs(prepared, len(BIRDS), seed), np.repeat(np.arange(len(BIRDS)), PER_CLASS)


def test_labels_are_moved_by_name_and_models_averaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = write_birds(tmp_path / "birds")
    files = [
        write_tiny(tmp_path / f"{seed}.onnx", bird_facts(title=f"m{seed}"), seed=seed) for seed in (0, 1)
    ]
    found = evaluate_onnx(files, shown(tmp_path / "birds", out=str(tmp_path / "out")))
    both = []
    for line, seed in zip(found["models"], (0, 1), strict=True):
        probs, target = wanted_scores(made, seed)
        both.append(probs)
        wanted = fine_scores(probs, target, BIRDS)
        assert (line["top1"], line["top5"]) == (wanted["top1"], wanted["top5"])
        assert line["nll"] == pytest.approx(wanted["nll"], abs=1e-4)
        assert "per_class" not in line
    mean = fine_scores(np.mean(both, axis=0), target, BIRDS)
    assert found["nll"] == pytest.approx(mean["nll"], abs=1e-4)
    assert [row["n"] for row in found["per_class"]] == [PER_CLASS] * len(BIRDS)
    printed = capsys.readouterr().out
    assert "average of all" in printed
    assert "gender" not in printed
    written = Predictions.read(tmp_path / "out" / "predictions.parquet", BIRDS)
    assert np.bincount(written.target).tolist() == [PER_CLASS] * len(BIRDS)


def test_of_data_with_a_test_part_that_part_is_shown(tmp_path: Path):
    made = write_birds(tmp_path / "birds", ("train", "test"))
    file = write_tiny(tmp_path / "one.onnx", bird_facts())
    found = evaluate_onnx([file], shown(tmp_path / "birds"))
    probs, target = wanted_scores(made, 0)
    assert found["data"] == f"{len(target)} test images of the data"
    assert found["nll"] == pytest.approx(fine_scores(probs, target, BIRDS)["nll"], abs=1e-4)


def test_data_of_other_classes_are_refused(tmp_path: Path):
    write_birds(tmp_path / "birds")
    file = write_tiny(tmp_path / "one.onnx", bird_facts(class_names=("dodo", *BIRDS[1:])))
    with pytest.raises(ModelFileError, match=r"only in the data 1 \(wren\); only in the model 1 \(dodo\)"):
        evaluate_onnx([file], shown(tmp_path / "birds"))


def test_data_of_some_of_the_classes_are_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = write_birds(tmp_path / "birds")
    shutil.rmtree(tmp_path / "birds" / "wren")
    found = evaluate_onnx([write_tiny(tmp_path / "one.onnx", bird_facts())], shown(tmp_path / "birds"))
    probs, target = (values[PER_CLASS:] for values in wanted_scores(made, 0))
    assert (found["n"], found["top1"]) == (len(target), fine_scores(probs, target, BIRDS)["top1"])
    assert (found["per_class"][0]["n"], found["per_class"][0]["accuracy"]) == (0, None)
    assert "no samples of 1 of 6 classes, which no score covers: 1 (wren)" in capsys.readouterr().out


def test_options_of_age_data_are_refused(tmp_path: Path):
    write_birds(tmp_path / "birds")
    file = write_tiny(tmp_path / "one.onnx", bird_facts())
    with pytest.raises(UsageError, match=r"--data\.groups, --data\.gender_column: for data of age groups"):
        evaluate_onnx([file], shown(tmp_path / "birds", data={"groups": "0-2,3-5", "gender_column": "sex"}))


def test_models_of_whole_pictures_and_of_boxes_do_not_mix(tmp_path: Path):
    write_birds(tmp_path / "birds")
    files = [
        write_tiny(tmp_path / "whole.onnx", bird_facts()),
        write_tiny(tmp_path / "box.onnx", bird_facts(data={"picture_crop": "box", "box_margin": 0.1})),
    ]
    with pytest.raises(UsageError, match=r"cut out differently \(box, margin 0.1; image, margin 0\)"):
        evaluate_onnx(files, shown(tmp_path / "birds"))


def test_category_data_that_was_trained_on_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from finegrained.config import FineDataConfig
    from finegrained.data.load import read_fine_data

    write_birds(tmp_path / "birds")
    known = read_fine_data(FineDataConfig(root=str(tmp_path / "birds"))).manifest.fingerprint
    for number, fingerprint in enumerate((known, "another")):
        file = write_tiny(tmp_path / f"{number}.onnx", bird_facts(data={"manifest": fingerprint}))
        capsys.readouterr()
        evaluate_onnx([file], shown(tmp_path / "birds"))
        assert ("was trained on images of this very data" in capsys.readouterr().out) == (number == 0)


def digests(root: Path, name: str) -> str:
    """Return the digests of the images of this name in every class folder, as an exported file has them."""
    files = sorted(root.rglob(name))
    return pack_digests(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


@pytest.mark.parametrize("task", ["age", "category"])
def test_images_that_a_model_has_seen_are_refused_by_their_bytes(tmp_path: Path, table: Path, task: str):
    """One training image, under another name, is enough; no table or name has to agree."""
    if task == "age":
        write, config, folder = tiny_facts, others(table), table.parent
        name, image = "03.png", "03.png"
    else:
        folder = tmp_path / "birds"
        write_birds(folder)
        write, config, name, image = bird_facts, shown(folder), "2.png", "auk/2.png"
    seen = write(data={"contents": {"seen": digests(folder, name), "tested": ""}})
    file = write_tiny(tmp_path / "seen.onnx", seen)
    with pytest.raises(
        DataError, match=r"was trained or validated on \d of these \d+ images \(equal bytes\)"
    ) as told:
        evaluate_onnx([file], config)
    assert image in str(told.value)


@pytest.mark.parametrize("task", ["age", "category"])
def test_images_that_a_model_was_tested_on_are_called_its_own(
    tmp_path: Path, table: Path, task: str, capsys: pytest.CaptureFixture[str]
):
    folder, write, config = table.parent, tiny_facts, others(table)
    if task == "category":
        folder, write, config = tmp_path / "birds", bird_facts, shown(tmp_path / "birds")
        write_birds(folder)
    tested = {"contents": {"seen": "", "tested": digests(folder, "*.png")}}
    found = evaluate_onnx([write_tiny(tmp_path / "own.onnx", write(data=tested))], config)
    assert found["data"] == f"{found['n']} test images of the run's own data"
    assert "were scored when the run ended" in capsys.readouterr().out


def test_scoring_categories_needs_no_torch(tmp_path: Path):
    write_birds(tmp_path / "birds")
    file = write_tiny(tmp_path / "one.onnx", bird_facts())
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from agecls.config import AgeDataConfig\n"
        "from apps.config import EvaluateOnnxConfig\n"
        "from apps.evaluate.evaluate_onnx import evaluate_onnx\n"
        "data = AgeDataConfig(root=sys.argv[1])\n"
        "assert evaluate_onnx([Path(sys.argv[2])], EvaluateOnnxConfig(data=data, device='cpu'))['n'] == 24\n"
        "sys.exit(', '.join({'torch', 'timm', 'albumentations'} & set(sys.modules)) or 0)\n"
    )
    words = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "birds"), str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

"""Exported category models on folders of pictures: labels by name, the test part alone, one way to cut."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agecls.config import AgeDataConfig
from apps.config import EvaluateOnnxConfig
from apps.evaluate.evaluate_onnx import evaluate_onnx
from finegrained.scores import fine_scores
from finetune.errors import ModelFileError, UsageError
from finetune.experiments.predictions import Predictions
from finetune.images.preprocess import preprocess
from tests.apps.tiny_onnx import SPEC, expected_probs, tiny_facts, write_tiny

ROOT = Path(__file__).resolve().parents[3]
# The models' order, which is not the folders'; a slash cannot stand in a folder's name.
BIRDS = ("wren", "C/V tern", "auk", "owl", "kite", "jay")
PER_CLASS = 4


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
    with pytest.raises(ModelFileError, match=r"only in the model 1 \(dodo\); only in the data 1 \(wren\)"):
        evaluate_onnx([file], shown(tmp_path / "birds"))


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


def test_data_that_was_trained_on_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from finegrained.config import FineDataConfig
    from finegrained.data.load import read_fine_data

    write_birds(tmp_path / "birds")
    known = read_fine_data(FineDataConfig(root=str(tmp_path / "birds"))).manifest.fingerprint
    for number, fingerprint in enumerate((known, "another")):
        file = write_tiny(tmp_path / f"{number}.onnx", bird_facts(data={"manifest": fingerprint}))
        capsys.readouterr()
        evaluate_onnx([file], shown(tmp_path / "birds"))
        assert ("was trained on pictures of this very data" in capsys.readouterr().out) == (number == 0)


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

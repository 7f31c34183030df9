"""Examples are chosen by the stated rule, and are the pixels that the network saw in evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from finegrained.figures.examples import choose_examples, read_examples
from finegrained.task import TASK
from finetune.errors import DataError
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.images.decode import decode_image
from finetune.images.preprocess import PreprocessSpec, preprocess
from tests.finegrained.made_results import made_up_probs, make_result

SPEC = PreprocessSpec(48, "warp", 56, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_rows_are_the_middles_of_equal_parts_of_the_order():
    sure = np.linspace(0.52, 0.98, 16)
    probs = np.column_stack([sure, 1 - sure])[np.random.default_rng(0).permutation(16)]
    right, wrong = choose_examples(probs, np.zeros(16, dtype=int), each=4)
    ranks = np.argsort(np.argsort(probs[:, 0]))
    assert ranks[right].tolist() == [2, 6, 10, 14]
    assert wrong == []


def test_right_and_wrong_ones_are_kept_apart_and_never_repeat():
    target = np.repeat(np.arange(5), 7)
    probs = made_up_probs(target, 5, seed=3)
    right, wrong = choose_examples(probs, target)
    assert (probs.argmax(axis=1)[right] == target[right]).all()
    assert (probs.argmax(axis=1)[wrong] != target[wrong]).all()
    assert len(set(right)) == len(set(wrong)) == 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_are_all_taken(count: int):
    probs = np.full((count, 2), 0.5)
    right, wrong = choose_examples(probs, np.zeros(count, dtype=int))
    assert (sorted(right), wrong) == (list(range(count)), [])


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A result with its images."""
    return make_result(tmp_path_factory.mktemp("examples") / "run", 3, per_class=2, pictures=True)


def test_crops_are_those_of_evaluation(result: Result):
    rows = [4, 1]
    for row, example in zip(rows, read_examples(result, rows, SPEC), strict=True):
        file = Path(result.run["data_root"]) / result.predictions.path[row]
        assert np.array_equal(example.crop, preprocess(decode_image(file), SPEC))
        assert example.target == result.predictions.target[row]
        assert example.said == result.predictions.preds[row]
        assert example.probability == result.predictions.probs[row].max()
        assert example.right == (example.target == example.said)


def test_crops_are_cut_to_the_boxes_where_the_run_cut_them(tmp_path: Path):
    run = make_result(tmp_path / "run", 2, per_class=1, pictures=True)
    manifest = run.manifest
    assert manifest is not None
    for name, value in (("x1", 10.0), ("y1", 20.0), ("x2", 30.0), ("y2", 50.0)):
        manifest = manifest.with_column(name, np.full(len(manifest), value))
    manifest.save(run.folder / "manifest.parquet")
    record = RunRecord.from_dict({**run.run, "crop": {"kind": "box", "margin": 0.0}})
    cut = replace(Result.load(run.folder, TASK.form), record=record)
    (example,) = read_examples(cut, [0], SPEC)
    whole = decode_image(Path(run.run["data_root"]) / run.predictions.path[0])
    assert np.array_equal(example.crop, preprocess(np.ascontiguousarray(whole[20:50, 10:30]), SPEC))


def test_a_picture_that_is_gone_is_an_error_with_its_name(tmp_path: Path):
    run = make_result(tmp_path / "run", 2, per_class=1, pictures=True)
    (Path(run.run["data_root"]) / run.predictions.path[0]).unlink()
    with pytest.raises(DataError, match="0000"):
        read_examples(run, [0], SPEC)


def test_a_run_without_its_table_of_images_is_an_error(tmp_path: Path):
    run = make_result(tmp_path / "run", 2, per_class=1)
    (run.folder / "manifest.parquet").unlink()
    with pytest.raises(DataError, match=r"no manifest\.parquet"):
        read_examples(run, [0], SPEC)


def test_the_lines_tell_truth_and_answer(result: Result):
    (example,) = read_examples(result, [0], SPEC)
    above, below = replace(example, target=0, said=1, probability=0.25).lines(result.class_names)
    assert above[0].text == "Odd Albatross 1"
    assert below[0].text == "✗ Odd Bunting 2 25 %"


def test_made_pictures_differ_by_class(result: Result):
    files = [Path(result.run["data_root"]) / path for path in result.predictions.path[[0, 2, 4]]]
    middles = {tuple(cv2.imread(str(file))[30, 30].tolist()) for file in files}
    assert len(middles) == 3

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from finetune.errors import DataError
from finetune.folder_lock import FolderLock
from finetune.study.cells import CellPlan, cell_folder, read_cell
from generalcls import cells
from generalcls.cells import CellTrainer, choose_numbers, computes_side_by_side, test_scores
from generalcls.config import (
    GeneralConfig,
    GeneralDataConfig,
    GeneralRunConfig,
    GeneralTrainConfig,
    NetworkConfig,
)
from generalcls.data import read_general_data
from tests.generalcls.small_study import arms, network

DATA = GeneralDataConfig(train_fraction=0.1, test_fraction=0.2)


def trainer(folder, **run) -> CellTrainer:
    config = GeneralConfig(
        data=DATA,
        network=NetworkConfig("logistic"),
        train=GeneralTrainConfig(epochs=2, batch_size=32),
        run=GeneralRunConfig(dir=str(folder), **run),
        device="cpu",
    )
    return CellTrainer(config, read_general_data(DATA), folder)


def plans(folder, words=("cel", "crl"), seeds=(0, 1)) -> list[CellPlan]:
    return [
        CellPlan(arm, seed, 1.0, cell_folder(folder, arm, seed)) for seed in seeds for arm in arms(*words)
    ]


def test_cells_are_kept_with_scores_answers_and_facts(tmp_path):
    found, todo = trainer(tmp_path), plans(tmp_path)
    found.train(todo)
    for plan in todo:
        cell = found.read(plan)
        assert cell is not None
        answers = np.load(plan.folder / cells.PREDICTIONS)
        right = answers["preds"] == answers["target"]
        assert cell.scores["accuracy"] == pytest.approx(100 * right.mean())
        f1 = f1_score(answers["target"], answers["preds"], average="macro")
        assert cell.scores["macro_f1"] == pytest.approx(100 * f1)
        assert cell.history[-1]["test_error"] == pytest.approx(100 - cell.scores["accuracy"])
        assert (answers["log_odds"] > 0)[~right].sum() == 0
        assert [row["epoch"] for row in cell.history] == [0, 1]
        assert cell.facts["data"] == found.data.fingerprint
        assert cell.facts["together"] == 4
    assert found.read(todo[0]).gradient_factor == pytest.approx(1, rel=1e-5)
    assert 1 < found.read(todo[1]).gradient_factor < 1 + 1 / 1.5
    assert 1 < found.read(todo[1]).gradient_ratio < found.read(todo[1]).gradient_factor
    assert not list((tmp_path / cells.IN_TRAINING).glob("*.pt"))


def test_together_or_in_small_chunks_the_scores_are_the_same(tmp_path):
    for name, run in (("all", {}), ("single", {"together": 1}), ("three", {"together": 3})):
        trainer(tmp_path / name, **run).train(plans(tmp_path / name))
    for plan in plans(tmp_path / "all"):
        place = plan.folder.relative_to(tmp_path / "all")
        scores = [read_cell(tmp_path / name / place).scores for name in ("all", "single", "three")]
        assert scores[0] == scores[1] == scores[2]


def test_a_cell_of_other_data_is_refused(tmp_path):
    found, [plan] = trainer(tmp_path), plans(tmp_path, ["cel"], [0])
    found.train([plan])
    other = replace(found.data, fingerprint="0" * 64)
    changed = CellTrainer(found.config, other, tmp_path)
    with pytest.raises(DataError, match="other pictures"):
        changed.read(plan)


def test_a_cell_that_another_process_holds_is_left_to_it(tmp_path, capsys):
    found, todo = trainer(tmp_path), plans(tmp_path)
    todo[1].folder.mkdir(parents=True)
    lock = FolderLock(todo[1].folder)
    found.train(todo)
    lock.release()
    assert [found.read(plan) is None for plan in todo] == [False, True, False, False]
    assert "left to another process" in capsys.readouterr().out


def test_scores_of_few_classes_have_no_top5():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [1.0, 2.0, 0.5]])
    scores = test_scores(logits, np.array([0, 1, 2]))
    assert scores["accuracy"] == pytest.approx(200 / 3)
    assert scores["top5"] is None


test_scores.__test__ = False


def test_numbers_and_ways():
    asked = GeneralConfig(device="cpu")
    assert choose_numbers(asked)[0].dtype == torch.float32
    double = GeneralConfig(run=GeneralRunConfig(precision="float64"), device="cpu")
    assert choose_numbers(double)[1] == torch.float64
    half = GeneralConfig(run=GeneralRunConfig(precision="bfloat16"), device="cpu")
    assert choose_numbers(half)[0].dtype == torch.bfloat16
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert computes_side_by_side(network("mlp", 0), cpu)
    assert not computes_side_by_side(network("mnist_cnn", 0), cpu)
    assert computes_side_by_side(network("mnist_cnn", 0), cuda)


def test_half_precision_trains_and_answers_in_single(tmp_path):
    found = trainer(tmp_path, precision="bfloat16")
    [plan] = plans(tmp_path, ["cel"], [0])
    found.train([plan])
    cell = found.read(plan)
    assert cell.facts["precision"] == "bfloat16"
    assert cell.scores["accuracy"] > 20

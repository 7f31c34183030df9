from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from finetune.errors import DataError, ResourceError
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import CellPlan, cell_folder, read_cell
from finetune.runs.lock import FolderLock
from generalcls.config import (
    GeneralConfig,
    GeneralDataConfig,
    GeneralRunConfig,
    GeneralTrainConfig,
    NetworkConfig,
)
from generalcls.data.datasets import read_general_data
from generalcls.parallel import cells
from generalcls.parallel.answers import PREDICTIONS, test_scores
from generalcls.parallel.cells import CellTrainer
from generalcls.parallel.device_data import Scaling
from generalcls.parallel.engine import Training
from tests.generalcls.small_study import arms

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
        answers = np.load(plan.folder / PREDICTIONS)
        right = answers["preds"] == answers["target"]
        assert cell.scores["accuracy"] == pytest.approx(100 * right.mean())
        f1 = f1_score(answers["target"], answers["preds"], average="macro")
        assert cell.scores["macro_f1"] == pytest.approx(100 * f1)
        assert cell.history[-1]["test_error"] == pytest.approx(100 - cell.scores["accuracy"])
        assert (answers["log_odds"] > 0)[~right].sum() == 0
        assert [row["epoch"] for row in cell.history] == [1, 2]
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
    with pytest.raises(DataError, match="other images"):
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


@pytest.mark.parametrize(
    ("run", "told"),
    [({}, "side by side"), ({"together": 1}, "one after another"), ({"together": 3}, "side by side")],
)
def test_it_says_how_models_train(tmp_path, capsys: pytest.CaptureFixture[str], run: dict, told: str):
    trainer(tmp_path, compile="on", **run)
    said = capsys.readouterr()
    assert f"models train {told}" in said.out + said.err
    assert ("without it" in said.out + said.err) == (told == "one after another")


def test_half_precision_trains_and_answers_in_single(tmp_path):
    found = trainer(tmp_path, precision="bfloat16")
    [plan] = plans(tmp_path, ["cel"], [0])
    found.train([plan])
    cell = found.read(plan)
    assert cell.facts["precision"] == "bfloat16"
    assert cell.scores["accuracy"] > 20


def test_the_matched_control_is_plain_cross_entropy_at_that_rate(tmp_path):
    found = trainer(tmp_path)
    [cel] = arms("cel")
    matched = Arm("cel-lr-mean-crl", cel.loss, matches="crl")
    folder = cell_folder(tmp_path, matched, 0)
    control = found.train_chunk([CellPlan(matched, 0, 1.5, folder)], "control")
    found.config = replace(found.config, train=replace(found.config.train, lr=1.5 * found.config.train.lr))
    plain = found.train_chunk([CellPlan(cel, 0, 1.0, tmp_path / "plain")], "plain")
    own, other = control.stack.model_state(0), plain.stack.model_state(0)
    for name, value in own.items():
        torch.testing.assert_close(value, other[name])
    assert read_cell(folder).facts["lr"] == pytest.approx(0.075)


def test_a_loss_that_is_cross_entropy_gives_its_very_scores(tmp_path):
    found = trainer(tmp_path)
    todo = plans(tmp_path, ["cel", "focal:gamma=0"], [0])
    found.train(todo)
    same = [np.load(plan.folder / PREDICTIONS) for plan in todo]
    assert (same[0]["preds"] == same[1]["preds"]).all()
    assert (same[0]["log_odds"] == same[1]["log_odds"]).all()


@pytest.mark.parametrize("name", ["logistic", "resnet34"])
def test_pictures_are_scaled_as_the_network_wants_by_the_training_part(tmp_path, name: str):
    found = trainer(tmp_path)
    found.config = replace(found.config, network=NetworkConfig(name))
    data = found.data if name == "logistic" else larger(found.data)
    again = CellTrainer(found.config, data, tmp_path)
    kind = {"logistic": "unit", "resnet34": "standard"}[name]
    assert again.scaling == Scaling.of(data.train.images, kind)
    assert again.scaling != Scaling.of(data.test.images, "standard")


def larger(data):
    """Return the data with every pixel doubled: networks of coloured images want 16 px."""
    parts = [
        replace(part, images=part.images.repeat(2, 1).repeat(2, 2)[:20], target=part.target[:20])
        for part in (data.train, data.test)
    ]
    return replace(data, train=parts[0], test=parts[1])


def test_answers_that_are_not_numbers_are_wrong_everywhere():
    generator = np.random.default_rng(0)
    target = np.arange(50) % 10
    lost = test_scores(np.full((50, 10), np.nan, np.float32), target)
    assert lost == {"accuracy": 0.0, "macro_f1": 0.0, "top5": 0.0}
    logits = generator.normal(size=(50, 10))
    logits[np.arange(50), target] = 9
    logits[:5, 3] = np.inf
    scores = test_scores(logits, target)
    assert scores["accuracy"] == pytest.approx(90)
    assert scores["top5"] == pytest.approx(90)


def test_a_diverged_training_is_told(tmp_path, capsys):
    found = trainer(tmp_path)
    found.config = replace(found.config, train=replace(found.config.train, lr=1e30, epochs=3))
    [plan] = plans(tmp_path, ["nllr"], [0])
    found.train([plan])
    assert found.read(plan).facts["diverged"] is True
    assert "diverged" in capsys.readouterr().out


def test_cells_of_other_settings_are_refused(tmp_path):
    found, [plan] = trainer(tmp_path), plans(tmp_path, ["cel"], [0])
    found.train([plan])
    for changed in ({"epochs": 3}, {"lr": 0.5}):
        other = replace(found.config, train=replace(found.config.train, **changed))
        with pytest.raises(DataError, match="One table cannot hold both"):
            CellTrainer(other, found.data, tmp_path).read(plan)
    curves = replace(found.config, train=replace(found.config.train, evaluate_every=2))
    assert CellTrainer(curves, found.data, tmp_path).read(plan) is not None


def test_a_cell_of_the_time_when_nllr_was_exact_is_neither_mixed_with_todays_nor_lost(tmp_path):
    found, [plan] = trainer(tmp_path), plans(tmp_path, ["nllr"], [0])
    found.train([plan])
    assert found.read(plan).facts["loss"] == {"name": "nllr", "clamp": 1e-7}
    content = json.loads((plan.folder / "cell.json").read_text())
    del content["facts"]["loss"]
    (plan.folder / "cell.json").write_text(json.dumps(content))
    assert read_cell(plan.folder).arm == "nllr-clamp0"
    with pytest.raises(DataError, match=r"holds nllr-clamp0, as nllr was meant .* list nllr:clamp=0"):
        found.read(plan)


def test_networks_that_make_tables_for_themselves_train_side_by_side(tmp_path):
    from finetune.training.optimization.precision import choose_precision
    from generalcls.networks.registry import build_network
    from generalcls.parallel.model_stack import ModelStack

    network = build_network("timm/test_resnet", channels=3, image_size=32, num_classes=3)
    network.register_buffer("table", torch.ones(3), persistent=False)
    stack = ModelStack([network], choose_precision("cpu", "float32"), side_by_side=True)
    assert set(stack.fixed) >= {"table"}
    assert all(value.device.type == "cpu" for value in stack.fixed.values())
    images = torch.rand(1, 3, 32, 32)
    [(_, embedding, *_)] = stack.embeddings(images)
    torch.testing.assert_close(embedding[0], network.eval().features(images), rtol=1e-4, atol=1e-5)


def out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_where_memory_runs_out_half_as_many_train_together(tmp_path, monkeypatch, capsys):
    todo = plans(tmp_path / "small")
    trainer(tmp_path / "plain").train(plans(tmp_path / "plain"))
    step = Training.train_step
    monkeypatch.setattr(
        Training,
        "train_step",
        lambda own, plan: out_of_memory() if len(own.members) > 2 and own.step else step(own, plan),
    )
    trainer(tmp_path / "small", checkpoint_minutes=1e-9).train(todo)
    told = [line for line in capsys.readouterr().out.splitlines() if "out of memory" in line]
    assert told == ["notice: out of memory with 4 models together: they begin again, 2 at once"]
    for plan, other in zip(todo, plans(tmp_path / "plain"), strict=True):
        assert read_cell(plan.folder).scores == read_cell(other.folder).scores
        assert read_cell(plan.folder).facts["together"] == 2


def no_room_in_the_processor() -> None:
    raise MemoryError("Unable to allocate 2.00 GiB for an array")


@pytest.mark.parametrize("refused", [out_of_memory, no_room_in_the_processor])
def test_models_that_do_not_even_fit_before_their_first_step_are_fewer(tmp_path, monkeypatch, refused):
    begin = CellTrainer.begin
    monkeypatch.setattr(
        CellTrainer, "begin", lambda own, todo: refused() if len(todo) > 1 else begin(own, todo)
    )
    todo = plans(tmp_path, ["cel"])
    found = trainer(tmp_path)
    found.train(todo)
    assert found.together == 1
    assert all(found.read(plan) is not None for plan in todo)


def test_one_model_without_memory_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "train_step", lambda own, plan: out_of_memory())
    with pytest.raises(ResourceError, match=r"the model does not fit .* smaller --train.batch_size"):
        trainer(tmp_path).train(plans(tmp_path, ["cel"], [0]))


def test_a_study_goes_by_the_memory_that_is_free(tmp_path, monkeypatch):
    each = trainer(tmp_path).plan.training
    monkeypatch.setattr(cells, "room", lambda device: 5 * each + each // 2)
    assert trainer(tmp_path).together == 5
    assert trainer(tmp_path, together=9).together == 9


def test_models_in_training_go_on_together_whatever_is_free_later(tmp_path, monkeypatch, capsys):
    each, todo, step = trainer(tmp_path).plan.training, plans(tmp_path), Training.train_step
    monkeypatch.setattr(cells, "room", lambda device: 3 * each + each // 2)

    def killed(own: Training, plan: object) -> None:
        if own.epoch:
            raise KeyboardInterrupt
        step(own, plan)

    monkeypatch.setattr(Training, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, checkpoint_minutes=1e-9).train(todo)
    monkeypatch.setattr(Training, "train_step", step)
    monkeypatch.setattr(cells, "room", lambda device: 2 * each + each // 2)
    found = trainer(tmp_path)
    found.train(todo)
    assert "goes on after 1 of 2 epochs" in capsys.readouterr().out
    assert [found.read(plan).facts["together"] for plan in todo] == [3, 3, 3, 1]

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from agecls.report.card import age_card, choose_model, crossing_rates, yaw_cells, young_and_adult
from agecls.report.card_facts import not_measured, pretraining_facts
from agecls.scores import score_cross_validation
from agecls.synthetic.adience import album_name, is_drawn
from agecls.task import TASK
from finetune.cli.console import quiet, reset
from finetune.errors import DataError, UsageError
from finetune.experiments.records.record import UNTESTED
from finetune.experiments.result import Result
from finetune.experiments.train import train_run
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_json
from tests.agecls.age_predictions import age_predictions, with_columns
from tests.agecls.results_by_hand import FOLDS, make_result
from tests.agecls.tiny_ages import as_table, single, tiny


def test_the_scores_of_a_fold_are_of_its_own_test_images(tmp_path):
    found = make_result(tmp_path / "run").predictions
    fold = found.select(found.fold == 4)
    card = age_card(tmp_path / "run", 4)
    metrics = card["metrics"]
    assert (metrics["scope"], metrics["fold"], metrics["n"]) == ("fold", 4, len(fold))
    assert metrics["exact"] == pytest.approx(100 * (fold.probs.argmax(1) == fold.target).mean())
    assert metrics["one_off"] == pytest.approx(100 * (abs(fold.probs.argmax(1) - fold.target) <= 1).mean())
    assert metrics["mae"] == pytest.approx(abs(fold.probs.argmax(1) - fold.target).mean())
    assert metrics["subjects"] == len(set(fold["subject"]))
    for index, cell in enumerate(card["card"]["groups"]):
        rows = fold.target == index
        assert (cell["images"], cell["right"]) == (rows.sum(), (rows & fold.correct).sum())
        assert cell["one_off_right"] == (rows & fold.one_off).sum()
        assert cell["subjects"] == len(set(fold["subject"][rows]))


def test_fewer_than_thirty_people_get_counts_and_no_conclusion(tmp_path):
    make_result(tmp_path / "run")
    few, many = (age_card(tmp_path / "run", fold) for fold in (0, None))
    assert few["metrics"]["subjects"] < 30 <= many["metrics"]["subjects"]
    assert few["metrics"]["exact_interval"] is None
    assert few["metrics"]["exact"] is not None
    assert all(cell["exact"] is None is cell["exact_interval"] for cell in few["card"]["groups"])
    assert few["card"]["false_adult"]["rate"] is None
    assert few["card"]["false_adult"]["count"] >= 0
    assert any("fewer than 30 subjects" in text and "0-2" in text for text in few["card"]["not_measured"])
    for cell in many["card"]["groups"]:
        assert (cell["exact"] is not None) == (cell["subjects"] >= 30)


def test_an_average_has_the_scores_of_its_members_and_says_whose_they_are(tmp_path):
    result = make_result(tmp_path / "run")
    scores = score_cross_validation(result.predictions)
    card = age_card(tmp_path / "run", None)
    metrics = card["metrics"]
    assert (metrics["scope"], metrics["members"]) == ("members", FOLDS)
    assert "exact" not in metrics  # nothing that could be taken for the average's own accuracy
    for key in ("exact_mean", "exact_sd", "exact_pooled", "one_off_mean", "exact_per_fold"):
        assert metrics[key] == scores[key]
    assert metrics["exact_mean_interval"] == scores["intervals"]["exact_mean"]
    assert any(text.startswith("The averaged model itself") for text in card["card"]["not_measured"])
    assert card["card"]["cross_validation"] is None


def test_a_model_of_several_tells_of_its_sisters_too(tmp_path):
    make_result(tmp_path / "run")
    one, all_of_them = age_card(tmp_path / "run", 1), age_card(tmp_path / "run", None)
    sisters = one["card"]["cross_validation"]
    assert sisters["exact_mean"] == all_of_them["metrics"]["exact_mean"]
    assert sisters["groups"] == all_of_them["card"]["groups"]
    assert sisters["false_adult"] == all_of_them["card"]["false_adult"]


def test_false_adults_and_false_minors_by_hand():
    target, named = np.array([0, 3, 3, 2, 4, 5, 7, 3]), np.array([0, 4, 3, 5, 3, 5, 4, 2])
    names = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")
    blank = np.full(8, "")
    people = np.array([f"p{row}" for row in range(8)])
    found = age_predictions(
        names,
        path=people,
        subject=people,
        user=people,
        gender=blank,
        age=np.full(8, np.nan),
        fold=np.zeros(8, dtype=int),
        target=target,
        probs=np.eye(8)[named],
    )
    rates = crossing_rates(found)
    adult, minor = rates["false_adult"], rates["false_minor"]
    assert (adult["images"], adult["count"], adult["oldest"]["images"], adult["oldest"]["count"]) == (
        5,
        2,
        3,
        1,
    )
    assert (minor["images"], minor["count"]) == (3, 1)
    assert adult["of"] == ["0-2", "4-6", "8-12", "15-20"]
    assert adult["named"] == ["25-32", "38-43", "48-53", "60+"]
    many = found.select(np.tile(np.arange(8), 30))
    many = with_columns(many, subject=np.arange(240).astype(str))
    assert crossing_rates(many)["false_adult"]["rate"] == pytest.approx(40)


@pytest.mark.parametrize(
    "names", [("robin", "wren"), ("0-30", "31-60", "61+"), ("0-5", "6-17"), ("20-30", "31+")]
)
def test_rates_across_eighteen_need_groups_that_allow_the_question(names):
    assert young_and_adult(names) is None


def test_groups_that_end_at_eighteen_allow_the_question():
    assert young_and_adult(("0-12", "13-17", "18+")) == ([0, 1], [2])


def test_adience_is_told_from_drawings_tables_and_folders_like_it(tmp_path, pair, faces):
    adience = make_result(tmp_path / "adience", counts={"edition": "older", "subjects": 80, "users": 9})
    table = make_result(tmp_path / "table", policy="table", counts={"table": "/home/me/faces.csv"})
    like = make_result(tmp_path / "like", counts={"edition": "unknown"})
    data = {r.folder: age_card(r.folder, 0)["card"]["data"] for r in (adience, table, like)}
    assert [found["kind"] for found in data.values()] == ["adience", "table", "adience-like"]
    assert "9 albums of 80 subjects here" in data[adience.folder]["about"]
    assert data[table.folder]["name"] == "the table faces.csv"
    for folder in (table.folder, like.folder):
        assert "Flickr" not in data[folder]["about"]
    drawn = age_card(pair[0], 0)["card"]["data"]
    assert (drawn["kind"], drawn["policy"]) == ("drawn", "core8")
    assert "drawings" in drawn["about"]
    assert "Flickr" not in drawn["about"]


def test_real_album_names_are_not_taken_for_drawn_ones():
    drawn = [album_name(number) for number in range(50)]
    assert is_drawn(drawn)
    assert not is_drawn([])
    for real in (
        "30601258@N03",
        "7153718@N04",
        "113445054@N07",
        "s001",
        "@N00",
        "70000002@N00",
        "70000038@N00",
    ):
        assert not is_drawn([*drawn, real])


@pytest.mark.real_data
def test_adience_itself_is_no_drawing(real_data):
    folds = real_data / "adience" / "folds_current"
    users = {line.split("\t")[0] for line in (folds / "fold_0_data.txt").read_text().splitlines()[1:]}
    assert users
    assert not any(is_drawn([user]) for user in users)


def test_a_real_run_tells_baseline_turn_of_the_head_and_gender(pair):
    report = read_json(pair[1] / "report.json")
    card = age_card(pair[1], 2)
    metrics, told = card["metrics"], card["card"]
    assert metrics["baseline"]["exact"] == report["baseline"]["exact_per_fold"][2]
    names = [cell["name"] for cell in told["yaw"]]
    assert names[0] == "frontal"
    assert set(names) <= {"frontal", "15 degrees", "30 degrees", "45 degrees"}
    for cells in (told["yaw"], told["gender"], told["groups"]):
        assert sum(cell["images"] for cell in cells) == metrics["n"]
    unknown = next(cell for cell in told["gender"] if cell["name"].startswith("u"))
    assert unknown["mostly"]["group"] == "0-2"
    assert told["data"]["shared_people"] == 0
    assert sum(told["data"]["per_group"].values()) == told["data"]["images"] == report["n"]
    assert told["training"]["n_train"] == report["n"] - metrics["n"]
    assert told["training"]["seed"] == 0
    assert told["holes"] == ["3", "7", "13-14", "21-24", "33-37", "44-47", "54-59"]


def test_a_turned_head_either_way_is_one_row(tmp_path):
    found = make_result(tmp_path / "run").predictions
    yaw = np.tile([0, -15, 15, 30], len(found) // 4)
    manifest = Manifest(tmp_path, found.class_names, {"path": found.path, "label": found.target, "yaw": yaw})
    cells = yaw_cells(found, manifest)
    assert [(cell["name"], cell["images"]) for cell in cells] == [
        ("frontal", 60),
        ("15 degrees", 120),
        ("30 degrees", 60),
    ]


def test_what_a_detector_costs_is_told_where_it_was_measured(tmp_path):
    result = make_result(tmp_path / "run")
    exact = 100 * float(result.predictions.correct.mean())
    scores = {"own": exact, "detector": exact - 2, "difference": -2.0, "interval": [-4.0, 0.5], "p": 0.1}
    report = {
        "run": str(tmp_path),
        "detector": "YuNet",
        "n": len(result.predictions),
        "subjects": 80,
        "found": 231,
        "equal_predictions": 91.0,
        "crop": {"style": "plain", "margin": 0.4},
        "all": {"exact": scores, "one_off": scores},
    }
    (tmp_path / "run" / "detector").mkdir()
    file = tmp_path / "run" / "detector" / "evaluation.json"
    file.write_text(json.dumps(report))
    card = age_card(tmp_path / "run", 0)["card"]
    assert card["detector"]["found"] == 231
    assert card["detector"]["exact"]["difference"] == -2.0
    assert not any("detector" in text for text in card["not_measured"])
    stale = {**report, "all": {"exact": {**scores, "own": exact + 3}, "one_off": scores}}
    other_models = ({**report, "weights": "other"}, {**report, "test_crops": "ten"})
    for other in ({**report, "n": 3}, {"n": len(result.predictions), "exact": 1.0}, stale, *other_models):
        file.write_text(json.dumps(other))
        assert age_card(tmp_path / "run", 0)["card"]["detector"] is None


def test_no_card_names_a_place_on_this_machine(tmp_path, pair, faces):
    weights = {"kind": "file", "location": "/home/me/secret/w.pth", "license": "mit", "sha256": "ef"}
    make_result(tmp_path / "run", pretraining=weights, data_root="/home/me/secret")
    text = json.dumps([age_card(tmp_path / "run", None), age_card(pair[0], 0)])
    assert "secret" not in text
    assert str(faces.parent) not in text
    assert pretraining_facts({"pretraining": weights})["file"] == "w.pth"
    windows = {"pretraining": {"kind": "file", "location": r"C:\Users\me\w.pth"}}
    assert pretraining_facts(windows) == {"kind": "file", "file": "w.pth"}


def test_the_folder_of_one_fold_leads_to_the_whole(pair):
    assert age_card(pair[0] / "fold3", None) == age_card(pair[0] / "fold3", 3) == age_card(pair[0], 3)


def test_a_fold_of_an_old_nllr_leads_to_the_whole_too(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "cv")
    for folder in (tmp_path / "cv", tmp_path / "cv" / "fold3"):
        record = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "loss": {"name": "nllr", "clamp": None}}))
    result, fold = choose_model(tmp_path / "cv" / "fold3", None)
    assert (result.folder.name, fold, result.loss_text) == ("cv", 3, "nllr, exact")


def test_a_fold_of_another_experiment_stays_alone(pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "cv")
    shutil.rmtree(tmp_path / "cv" / "fold3")
    shutil.copytree(pair[1] / "fold3", tmp_path / "cv" / "fold3")
    result, fold = choose_model(tmp_path / "cv" / "fold3", None)
    assert (result.folder.name, fold) == ("fold3", 3)
    card = age_card(tmp_path / "cv" / "fold3", None)
    assert card["metrics"]["baseline"] is None
    assert card["card"]["cross_validation"] is None
    assert card["card"]["training"]["loss"].startswith("crl")


def test_a_single_run_and_one_that_tested_nothing(faces, tmp_path):
    table = as_table(faces, tmp_path / "faces.csv", root=faces)
    options = {"root": None, "table": str(table), "group_column": "group", "follow": True}
    quiet()
    try:
        for fold, name in ((1, "one"), (-1, "all")):
            train_run(TASK, single(tiny(faces, tmp_path / name), fold=fold, **options))
    finally:
        reset()
    one = age_card(tmp_path / "one", None)
    assert one["metrics"]["fold"] == 1
    assert one["metrics"]["n"] == len(Result.load(tmp_path / "one", TASK.form).predictions)
    assert one["card"]["data"]["kind"] == "table"
    assert any(text.startswith("Gender") for text in one["card"]["not_measured"])
    with pytest.raises(UsageError, match="run of fold 1"):
        age_card(tmp_path / "one", 2)
    none = age_card(tmp_path / "all", None)
    assert none["metrics"] == {}
    assert none["card"]["not_measured"][0].startswith("Accuracy: every image was trained on")
    assert {cell["images"] for cell in none["card"]["groups"]} == {0}


def test_refusals_say_what_there_is(tmp_path):
    make_result(tmp_path / "run")
    with pytest.raises(UsageError, match=r"no fold 7: choose among \[0, 1, 2, 3, 4\]"):
        age_card(tmp_path / "run", 7)
    with pytest.raises(DataError, match="is not the result"):
        age_card(tmp_path / "nothing", None)


def test_what_nobody_measured_is_always_said():
    told = " ".join(not_measured([], gender=True, yaw=True, averaged=False, tested=True, images=9))
    assert "Skin tone" in told
    assert "Faces cut out by a detector" in told
    assert "Gender" not in told
    assert "turned" not in told


@pytest.mark.parametrize("fold", [0, None])
def test_weights_that_nobody_tested_have_no_scores(tmp_path, fold):
    make_result(tmp_path / "run")
    found = age_card(tmp_path / "run", fold, tested=False)
    assert found["metrics"] == {}
    assert found["card"]["not_measured"][0] == UNTESTED
    assert found["card"]["cross_validation"] is None
    assert found["card"]["detector"] is None
    assert not any(row["images"] for row in found["card"]["groups"])
    tested = age_card(tmp_path / "run", fold)
    assert tested["metrics"]
    assert UNTESTED not in tested["card"]["not_measured"]

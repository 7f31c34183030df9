"""What the fine-grained commands have of their own: heads, recipes, counts of the published data."""

from __future__ import annotations

import json
import re

import pytest

from finegrained.task import TASK
from finetune.experiments.result import Result
from finetune.models.heads.registry import head_options
from tests.finegrained.tiny_birds import birds, fine

pytestmark = pytest.mark.usefixtures("undrawn")

TINY = (
    "--data.subset",
    "true",
    "--model.backbone=test_resnet",
    "--model.weights=none",
    "--model.image_size=32",
    "--train.epochs=1",
    "--train.batch_size=8",
    "--run.workers=0",
    "--run.cache=none",
    "--device=cpu",
)


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory):
    return birds(tmp_path_factory.mktemp("birds") / "CUB_200_2011")


def test_train_and_evaluate_from_the_command_line(birds_folder, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--data.root", birds_folder, "--head.name", "dcl", "--head.options.regions", 4]
    code, out, err = fine(capsys, "train", *words, "--loss.name", "crl", "--run.dir", run, *TINY, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert (record["head"], record["loss"]["name"], record["loss"]["alpha"]) == ("dcl", "crl", 1.5)
    assert record["head_options"] == {**head_options("dcl"), "regions": 4, "gamma": 1.0}
    assert (run / "report.md").is_file()
    code, out, _ = fine(capsys, "evaluate", run, "--json")
    assert code == 0
    assert json.loads(out)["top1"] == record["scores"]["top1"]
    code, out, _ = fine(capsys, "evaluate", run)
    assert re.search(r"top-1 .* of 12 images", out)
    assert "lowest accuracy" in out


def test_verify_counts_without_pictures(birds_folder, capsys):
    code, out, err = fine(capsys, "verify", "--data.root", birds_folder, "--data.subset", "true", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["images"], found["classes"], found["train"], found["test"]) == (30, 3, 18, 12)


def test_a_mistyped_option_is_told_with_the_right_one(capsys):
    code, _, err = fine(capsys, "train", "--data.val_shar", "0.2")
    assert code == 2
    assert "did you mean data.val_share?" in err


def test_a_recipe_is_found_by_name_and_changed_by_options(birds_folder, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--config", "cub_dcl_resnet50_crl", "--data.root", birds_folder, "--run.dir", run]
    code, _, err = fine(capsys, "train", *words, *TINY, "--train.milestones=[]", "--head.options.regions=4")
    assert code == 0, err
    config = Result.load(run, TASK.form).config
    assert config["head"]["options"] == {**head_options("dcl"), "regions": 4}
    assert config["train"]["augment"] == "rotate_crop"


def test_without_data_or_place_training_says_what_to_give(birds_folder, tmp_path, capsys):
    code, _, err = fine(capsys, "train", "--run.dir", tmp_path / "run", *TINY)
    assert (code, "give --data.root FOLDER" in err) == (2, True)
    code, _, err = fine(capsys, "train", "--data.root", birds_folder, *TINY)
    assert (code, "give --run.dir FOLDER" in err) == (2, True)


@pytest.mark.real_data
def test_the_published_counts_of_the_real_lists(real_data, capsys):
    root = real_data / "cub_meta" / "CUB_200_2011"
    code, out, err = fine(capsys, "verify", "--data.root", root, "--data.metadata_only", "true")
    assert code == 0, err
    for count in ("11788", "200", "5994", "5794"):
        assert re.search(rf"\b{count}\b", (out + err).replace(",", "")), count

"""What the age commands have of their own: cross-validation, Adience's files, tables of other faces."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings

import pytest

from agecls.task import TASK
from core_losses.posterior import _warn_negative_values
from finetune.experiments.result import Result
from tests.agecls.tiny_ages import as_table, crl, listed_rows, one_object, single, tiny, words

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.mark.real_data
def test_verify_of_the_real_fold_files_as_the_documentation_has_it(capsys, real_data):
    root = real_data / "adience" / "folds_current"
    code, out, _ = crl(capsys, "age", "verify", "--data.root", root, "--data.policy", "core8", "--json")
    result = one_object(out)
    assert (code, result["images"]) == (0, 17393)
    assert result["per_fold"] == [4377, 3092, 3285, 2963, 3676]


def test_usage_errors_of_cv_exit_with_2(capsys, faces, pair, tmp_path):
    for argv, told in (
        (["--train.epoch", "3"], "did you mean train.epochs?"),
        (["--loss.name", "crossentropy", "--run.dir", tmp_path / "x"], "cel"),
        (["--data.root", faces], "--run.dir"),
        (words(tiny(faces, pair[0])), "not empty"),
    ):
        code, out, err = crl(capsys, "age", "cv", *argv)
        assert (code, out) == (2, ""), argv
        assert told in err
        assert "Traceback" not in err


def test_cv_prints_its_report_as_one_object(capsys, faces, pair, tmp_path):
    argv = ["age", "cv", *words(tiny(faces, tmp_path / "run"))]
    code, out, err = crl(capsys, *argv, "--folds", "0,2", "--json")
    assert (code, one_object(out)["remaining"]) == (0, [1, 3, 4])
    assert "fold 2: " in err
    code, out, err = crl(capsys, *argv, "--run.resume", "auto", "--json")
    report, written = one_object(out), json.loads((tmp_path / "run" / "report.json").read_text())
    assert code == 0
    assert report == written
    assert report["exact_per_fold"] == json.loads((pair[0] / "report.json").read_text())["exact_per_fold"]
    assert "finished earlier, not run again" in err


def test_evaluate_prints_one_object_for_own_images_and_for_others(capsys, pair, other_faces, tmp_path):
    code, out, err = crl(capsys, "age", "evaluate", pair[0], "--json")
    assert (code, one_object(out)["data"]) == (0, "the run's own test images, as it was tested")
    assert "by gender" in err
    table = as_table(other_faces, tmp_path / "others.csv")
    options = ["--data.table", table, "--data.root", other_faces, "--data.group_column", "group"]
    options += ["--data.user_column", "user", "--cache", tmp_path / "cache", "--device", "cpu"]
    code, out, _ = crl(capsys, "age", "evaluate", pair[0] / "fold0", *options, "--json")
    assert (code, one_object(out)["n"]) == (0, len(listed_rows(other_faces)))


def test_cross_validations_are_compared_on_the_same_images(capsys, pair, tmp_path):
    options = ["--out", tmp_path / "out", "--resamples", "200", "--pictures", "false", "--json"]
    code, out, err = crl(capsys, "age", "compare", *pair, *options)
    result = one_object(out)
    cel, crl_report = (json.loads((folder / "report.json").read_text()) for folder in pair)
    assert code == 0
    assert result["controlled"] is True
    assert result["n"] == cel["n"]
    expected = crl_report["exact_mean"] - cel["exact_mean"]
    assert result["exact"]["difference"] == pytest.approx(expected)
    assert (tmp_path / "out" / "compare.md").is_file()
    assert str(tmp_path / "out") in err


def test_a_folder_without_fold_files_and_a_subject_in_two_folds_exit_with_3(capsys, faces, tmp_path):
    code, out, err = crl(capsys, "age", "verify", "--data.root", tmp_path, "--json")
    assert (code, out) == (3, "")
    assert "fold_0_data.txt" in err
    file = as_table(faces, tmp_path / "t.csv")
    header, *rows = file.read_text().splitlines()
    person = rows[0].split(",")[2]
    cells = rows[-1].split(",")
    file.write_text("\n".join([header, *rows[:-1], ",".join([*cells[:2], person, *cells[3:]])]))
    options = ["--data.table", file, "--data.root", faces, "--data.group_column", "group"]
    code, out, err = crl(capsys, "age", "verify", *options, "--data.fold_column", "fold", "--json")
    assert (code, out) == (3, "")
    assert f"subject {person} is in train and test" in err


@pytest.mark.exhaustive  # training/optimization/test_distributed.py shows two processes in every run
def test_two_processes_of_torchrun_train_as_one(faces, tmp_path):
    argv = words(tiny(faces, tmp_path / "run", "crl"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, "-m", "agecls", "train", *argv, "--data.fold", "0", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    record = one_object(found.stdout)
    assert (record["processes"], record["fold"]) == (2, 0)
    result = Result.load(tmp_path / "run", TASK.form).predictions
    own = [row for row in listed_rows(faces) if row["fold"] == "0"]
    assert len(result) == len(own) == len(set(result.path))


def test_a_loss_that_can_be_negative_says_so_once(capsys, faces, tmp_path):
    _warn_negative_values.cache_clear()
    argv = ["age", "train", *words(single(tiny(faces, tmp_path / "run", "crl"))), "--loss.alpha", "0.5"]
    with warnings.catch_warnings():
        warnings.simplefilter("always")  # no error, and nothing else keeps it to one
        code, out, _ = crl(capsys, *argv)
    assert code == 0
    assert out.count("can be negative when alpha < 1") == 1

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agecls.commands import COMMANDS
from agecls.task import TASK
from finetune.experiments.result import Result
from tests.agecls.tiny_ages import as_table, crl, listed_rows, one_object, single, tiny, words


def copy_with(source: Path, target: Path, **changes: object) -> Path:
    """Copy a result's record and predictions, with other facts in run.json; return the copy."""
    target.mkdir()
    for name in ("predictions.parquet", "manifest.parquet", "config.yaml"):
        shutil.copy(source / name, target)
    record = json.loads((source / "run.json").read_text()) | changes
    (target / "run.json").write_text(json.dumps(record))
    return target


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_every_option_and_ends_well(capsys, name):
    code, out, err = crl(capsys, "age", name, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out
    assert COMMANDS[name].about in " ".join(out.split())


def test_verify_prints_one_object_and_a_table_for_people(capsys, faces):
    code, out, err = crl(capsys, "age", "verify", "--data.root", faces, "--json")
    result = one_object(out)
    assert code == 0
    assert result["images"] == len(listed_rows(faces)) == sum(result["per_fold"])
    assert "policy core8" in err
    code, out, err = crl(capsys, "age", "verify", "--data.root", faces)
    assert (code, err) == (0, "")
    assert "policy core8" in out


@pytest.mark.real_data
def test_verify_of_the_real_fold_files_as_the_documentation_has_it(capsys, real_data):
    root = real_data / "adience" / "folds_current"
    code, out, _ = crl(capsys, "age", "verify", "--data.root", root, "--data.policy", "core8", "--json")
    result = one_object(out)
    assert (code, result["images"]) == (0, 17393)
    assert result["per_fold"] == [4377, 3092, 3285, 2963, 3676]


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


def test_train_prints_its_record_as_one_object(capsys, faces, tmp_path):
    argv = ["age", "train", *words(tiny(faces, tmp_path / "run")), "--data.fold", "1", "--json"]
    code, out, _ = crl(capsys, *argv)
    record = one_object(out)
    assert (code, record["fold"], record["run"]) == (0, 1, str(tmp_path / "run"))


def test_evaluate_prints_one_object_for_own_images_and_for_others(capsys, pair, other_faces, tmp_path):
    code, out, err = crl(capsys, "age", "evaluate", pair[0], "--json")
    assert (code, one_object(out)["data"]) == (0, "the run's own test images, as it was tested")
    assert "by gender" in err
    table = as_table(other_faces, tmp_path / "others.csv")
    options = ["--data.table", table, "--data.root", other_faces, "--data.group_column", "group"]
    options += ["--data.user_column", "user", "--cache", tmp_path / "cache", "--device", "cpu"]
    code, out, _ = crl(capsys, "age", "evaluate", pair[0] / "fold0", *options, "--json")
    assert (code, one_object(out)["n"]) == (0, len(listed_rows(other_faces)))


def test_compare_is_paired_on_the_same_images(capsys, pair, tmp_path):
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


def test_compare_with_itself_finds_nothing(capsys, pair, tmp_path):
    options = ["--out", tmp_path / "out", "--resamples", "200", "--pictures", "false", "--json"]
    result = one_object(crl(capsys, "age", "compare", pair[0], pair[0], *options)[1])
    assert (result["exact"]["difference"], result["exact"]["interval"]) == (0, [0, 0])


def test_several_seeds_are_joined_by_commas(capsys, pair, tmp_path):
    cel = [pair[0], copy_with(pair[0], tmp_path / "cel1", seed=1)]
    other = [pair[1], copy_with(pair[1], tmp_path / "crl1", seed=1)]
    sides = [",".join(map(str, side)) for side in (cel, other)]
    options = ["--out", tmp_path / "out", "--resamples", "200", "--pictures", "false", "--json"]
    code, out, _ = crl(capsys, "age", "compare", *sides, *options)
    assert (code, one_object(out)["seeds"]) == (0, [0, 1])


@pytest.mark.parametrize("fact", ["manifest", "policy", "split"])
def test_results_of_other_data_are_not_compared(capsys, pair, tmp_path, fact):
    other = copy_with(pair[1], tmp_path / "other", **{fact: "something else"})
    code, out, err = crl(capsys, "age", "compare", pair[0], other, "--json")
    assert (code, out) == (3, "")
    assert f"{fact}: " in err
    assert "something else" in err


def test_usage_errors_exit_with_2(capsys, faces, pair, tmp_path):
    for argv, told in (
        (["age", "cv", "--train.epoch", "3"], "did you mean train.epochs?"),
        (["age", "cv", "--loss.name", "crossentropy", "--run.dir", tmp_path / "x"], "cel"),
        (["age", "verify"], "--data.root"),
        (["age", "cv", "--data.root", faces], "--run.dir"),
        (["age", "cv", *words(tiny(faces, pair[0]))], "not empty"),
        (["age", "crossvalidate"], "no command 'crossvalidate'"),
        (["age", "evaluate"], "run"),
    ):
        code, out, err = crl(capsys, *argv)
        assert (code, out) == (2, ""), argv
        assert told in err
        assert "Traceback" not in err


def test_data_errors_exit_with_3(capsys, faces, tmp_path):
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


def test_unusable_model_files_exit_with_4(capsys, faces, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"PK not weights")
    argv = [*words(tiny(faces, tmp_path / "run")), "--model.weights", tmp_path / "weights.pth"]
    code, _, err = crl(capsys, "age", "train", *argv)
    assert code == 4
    assert "weights.pth" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that must be missing")
def test_a_missing_device_exits_with_5(capsys, faces, tmp_path):
    code, _, err = crl(capsys, "age", "train", *words(tiny(faces, tmp_path / "run")), "--device", "cuda")
    assert code == 5
    assert "cuda" in err.lower()


def test_expected_failures_show_a_traceback_only_when_asked(capsys):
    code, _, err = crl(capsys, "age", "verify", "--data.root", "nowhere")
    assert (code, len(err.splitlines())) == (3, 1)
    with pytest.raises(Exception, match="no such folder"):
        crl(capsys, "age", "verify", "--data.root", "nowhere", "--debug")


def test_python_m_agecls_is_the_same_program(faces):
    command = [
        sys.executable,
        "-m",
        "agecls",
        "verify",
        "--data.root",
        str(faces),
        "--quick",
        "true",
        "--json",
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert one_object(found.stdout)["images"] == len(listed_rows(faces))


@pytest.mark.exhaustive  # tests/finetune/training/test_torchrun.py shows the engine's own part in every run
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


def test_a_loss_that_can_be_negative_says_so_once(faces, tmp_path):
    command = [sys.executable, "-m", "agecls", "train", *words(single(tiny(faces, tmp_path / "run", "crl")))]
    ran = subprocess.run([*command, "--loss.alpha", "0.5"], capture_output=True, text=True, check=True)
    assert ran.stdout.count("can be negative when alpha < 1") == 1

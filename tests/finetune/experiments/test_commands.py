"""The commands that every task has, from their words to their results and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from agecls.commands import COMMANDS as AGE_COMMANDS
from finegrained.commands import COMMANDS as FINE_COMMANDS
from tests.agecls.tiny_ages import crl, one_object
from tests.finetune.experiments.tiny_tasks import TinyTask, leave_out_pictures

COMMANDS = {"age": AGE_COMMANDS, "fine": FINE_COMMANDS}
EVERY = [(task, name) for task, commands in COMMANDS.items() for name in commands]
FEW = ("--resamples", "200", "--pictures", "false", "--json")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw no images, which take most of a tiny run's time."""
    leave_out_pictures(monkeypatch)


@pytest.fixture(scope="module")
def runs(tiny: TinyTask, tmp_path_factory) -> tuple[Path, Path]:
    """A task's runs of cross-entropy and of CRL, equal in everything else."""
    from apps.cli import main

    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        for loss in ("cel", "crl"):
            assert main([tiny.task.name, "train", *tiny.training(folder / loss), f"--loss.name={loss}"]) == 0
    return folder / "cel", folder / "crl"


def copy_with(source: Path, target: Path, **changes: object) -> Path:
    """Copy a result's record and predictions, with other facts in run.json; return the copy."""
    target.mkdir()
    for name in ("predictions.parquet", "manifest.parquet", "config.yaml"):
        shutil.copy(source / name, target)
    record = json.loads((source / "run.json").read_text()) | changes
    (target / "run.json").write_text(json.dumps(record))
    return target


def test_the_commands_come_in_the_order_of_their_use():
    assert list(AGE_COMMANDS) == ["verify", "train", "cv", "evaluate", "calibrate", "compare", "study"]
    assert list(FINE_COMMANDS) == ["verify", "train", "evaluate", "calibrate", "compare", "study", "cost"]


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_help_says_every_option_and_ends_well(capsys, task, name):
    code, out, err = crl(capsys, task, name, "--help")
    assert (code, err) == (0, "")
    assert "--json" in out
    assert COMMANDS[task][name].about in " ".join(out.split())


def test_verify_prints_one_object_and_a_table_for_people(capsys, tiny):
    table = {"age": "policy core8", "fine": "30 images, 3 classes"}[tiny.task.name]
    code, out, err = crl(capsys, tiny.task.name, "verify", *tiny.words, "--json")
    assert (code, one_object(out)["images"]) == (0, tiny.images)
    assert table in err
    code, out, err = crl(capsys, tiny.task.name, "verify", *tiny.words)
    assert (code, err) == (0, "")
    assert table in out


def test_train_prints_its_record_as_one_object(capsys, tiny, runs, tmp_path):
    code, out, err = crl(capsys, tiny.task.name, "train", *tiny.training(tmp_path / "run"), "--json")
    record = one_object(out)
    assert (code, record["kind"], record["run"]) == (0, tiny.task.form.kinds[0], str(tmp_path / "run"))
    assert (tmp_path / "run" / "report.md").is_file()
    assert str(tmp_path / "run") in err
    assert record["scores"] == json.loads((runs[0] / "run.json").read_text())["scores"]


def test_evaluate_prints_the_scores_of_the_run(capsys, tiny, runs):
    code, out, _ = crl(capsys, tiny.task.name, "evaluate", runs[0], "--json")
    headline = tiny.task.measures[0]
    told, report = one_object(out), json.loads((runs[0] / "report.json").read_text())
    name = headline.report_name if headline.report_name in told else headline.key
    assert (code, told[name]) == (0, pytest.approx(report[headline.report_name]))


def test_compare_is_paired_on_the_same_images(capsys, tiny, runs, tmp_path):
    code, out, err = crl(capsys, tiny.task.name, "compare", *runs, "--out", tmp_path / "out", *FEW)
    found, headline = one_object(out), tiny.task.measures[0]
    cel, other = (json.loads((folder / "report.json").read_text()) for folder in runs)
    assert (code, found["controlled"], found["n"]) == (0, True, cel["n"])
    expected = other[headline.report_name] - cel[headline.report_name]
    assert found[headline.key]["difference"] == pytest.approx(expected)
    assert (tmp_path / "out" / "compare.md").is_file()
    assert str(tmp_path / "out") in err


def test_compare_with_itself_finds_nothing(capsys, tiny, runs, tmp_path):
    argv = [tiny.task.name, "compare", runs[0], runs[0], "--out", tmp_path / "out", *FEW]
    found = one_object(crl(capsys, *argv)[1])[tiny.task.measures[0].key]
    assert found["difference"] == 0
    assert found["interval"][0] == -found["interval"][1] < 0


def test_several_seeds_are_joined_by_commas(capsys, tiny, runs, tmp_path):
    pairs = [(run, copy_with(run, tmp_path / f"{run.name}1", seed=1)) for run in runs]
    sides = [",".join(map(str, pair)) for pair in pairs]
    code, out, _ = crl(capsys, tiny.task.name, "compare", *sides, "--out", tmp_path / "out", *FEW)
    assert (code, one_object(out)["seeds"]) == (0, [0, 1])


@pytest.mark.parametrize("fact", ["manifest", "policy", "split"])
def test_results_of_other_data_are_not_compared(capsys, tiny, runs, tmp_path, fact):
    other = copy_with(runs[1], tmp_path / "other", **{fact: "something else"})
    code, out, err = crl(capsys, tiny.task.name, "compare", runs[0], other, "--json")
    assert (code, out) == (3, "")
    assert f"{fact}: " in err
    assert "something else" in err


def test_a_study_takes_its_options(capsys, tiny, tmp_path):
    argv = ["--losses", "crl:beta=0.5", "--seeds", "1", "--controls", "false", "--json"]
    argv += [f"--{name}={value}" for name, value in tiny.study_options.items()]
    code, out, err = crl(capsys, tiny.task.name, "study", *tiny.training(tmp_path / "study"), *argv)
    assert code == 0, err
    assert [row["name"] for row in one_object(out)["arms"]] == ["cel", "crl-alpha1.5-beta0.5"]
    assert (tmp_path / "study" / "report.md").is_file()


def test_usage_errors_exit_with_2(capsys, tiny, runs, tmp_path):
    for argv, told in (
        (["train", "--train.epoch", "3"], "did you mean train.epochs?"),
        (["train", "--loss.name", "crossentropy", "--run.dir", tmp_path / "x"], "cel"),
        (["verify"], "--data.root"),
        (["train", "--run.dir", tmp_path / "x"], "--data.root"),
        (["train", *tiny.words], "--run.dir"),
        (["train", *tiny.training(runs[0])], "not empty"),
        (["crossvalidate"], "no command 'crossvalidate'"),
        (["evaluate"], "run"),
        (["compare", *runs, "--resamples", "0"], "resamples must be 1 or more"),
    ):
        code, out, err = crl(capsys, tiny.task.name, *argv)
        assert (code, out) == (2, ""), argv
        assert told in err
        assert "Traceback" not in err


def test_data_errors_exit_with_3(capsys, tiny, tmp_path):
    code, out, err = crl(capsys, tiny.task.name, "verify", "--data.root", tmp_path, "--json")
    assert (code, out) == (3, "")
    assert str(tmp_path) in err


def test_unusable_model_files_exit_with_4(capsys, tiny, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"PK not weights")
    argv = [*tiny.training(tmp_path / "run"), "--model.weights", tmp_path / "weights.pth"]
    code, _, err = crl(capsys, tiny.task.name, "train", *argv)
    assert code == 4
    assert "weights.pth" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="has the device that must be missing")
def test_a_missing_device_exits_with_5(capsys, tiny, tmp_path):
    argv = [*tiny.training(tmp_path / "run"), "--device", "cuda"]
    code, _, err = crl(capsys, tiny.task.name, "train", *argv)
    assert code == 5
    assert "cuda" in err.lower()


def test_expected_failures_show_a_traceback_only_when_asked(capsys, tiny):
    code, _, err = crl(capsys, tiny.task.name, "verify", "--data.root", "nowhere")
    assert (code, len(err.splitlines())) == (3, 1)
    with pytest.raises(Exception, match="nowhere"):
        crl(capsys, tiny.task.name, "verify", "--data.root", "nowhere", "--debug")


def test_python_m_is_the_same_program(tiny):
    command = [sys.executable, "-m", tiny.package, "verify", *tiny.words, "--quick", "true", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert one_object(found.stdout)["images"] == tiny.images

"""Commands: one result, one exit code, and a failure told in a sentence without a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune import console
from finetune.command import Command, choose_command, command_line, run_command
from finetune.config import FitConfig
from finetune.errors import DataError, InterruptedRunError, ModelFileError, ResourceError, UsageError


@pytest.fixture(autouse=True)
def plain_console() -> Iterator[None]:
    yield
    console.reset()


def doing(result: Any) -> Command:
    """Return a command that returns or raises `result`."""

    def run(config: FitConfig, words: Mapping[str, str]) -> dict[str, Any]:
        console.say("working")
        if isinstance(result, BaseException):
            raise result
        return {"lr": config.train.lr, **result}

    return Command(FitConfig, "does something", run)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("no"), 2),
        (DataError("no"), 3),
        (ModelFileError("no"), 4),
        (ResourceError("no"), 5),
        (InterruptedRunError("no"), 130),
    ],
)
def test_an_expected_failure_is_one_sentence_and_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
):
    assert run_command(doing(error), [], prog="crl do") == code
    assert capsys.readouterr().err == "crl do: no\n"


def test_debug_shows_the_traceback():
    with pytest.raises(DataError):
        run_command(doing(DataError("no")), ["--debug"], prog="crl do")


def test_a_mistake_of_our_own_is_never_swallowed():
    with pytest.raises(ZeroDivisionError):
        run_command(doing(ZeroDivisionError()), [], prog="crl do")


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]):
    assert run_command(doing(KeyboardInterrupt()), [], prog="crl do") == 130
    assert capsys.readouterr().err == "crl do: interrupted\n"


def test_json_leaves_exactly_one_object_on_standard_output(capsys: pytest.CaptureFixture[str]):
    assert run_command(doing({"score": float("nan")}), ["--json", "--train.lr", "0.5"], prog="crl do") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {"lr": 0.5, "score": None}
    assert err == "working\n"


def test_without_json_the_command_tells_a_person_itself(capsys: pytest.CaptureFixture[str]):
    assert run_command(doing({}), [], prog="crl do") == 0
    assert capsys.readouterr() == ("working\n", "")


def test_help_ends_with_0_and_a_bad_option_with_2(capsys: pytest.CaptureFixture[str]):
    assert run_command(doing({}), ["--help"], prog="crl do") == 0
    assert "crl do" in capsys.readouterr().out
    assert run_command(doing({}), ["--train.lr", "abc"], prog="crl do") == 2
    assert run_command(doing({}), ["--loss.name", "crl", "--loss.alpha", "-1"], prog="crl do") == 2
    assert "alpha" in capsys.readouterr().err


def test_a_command_is_chosen_by_its_first_word(capsys: pytest.CaptureFixture[str]):
    commands = {"train": doing({}), "verify": doing(DataError("bad row"))}
    assert choose_command(commands, ["train"], prog="crl age") == 0
    assert choose_command(commands, ["verify"], prog="crl age") == 3
    assert "crl age verify: bad row" in capsys.readouterr().err
    assert choose_command(commands, [], prog="crl age") == 0
    assert "train   does something" in capsys.readouterr().out


def test_an_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]):
    assert choose_command({"train": doing({})}, ["trian"], prog="crl", others=["age"]) == 2
    assert "no command 'trian' (did you mean train?)" in capsys.readouterr().err
    assert choose_command({"train": doing({})}, ["xyz"], prog="crl", others=["age"]) == 2
    assert "known: age, train" in capsys.readouterr().err


def test_the_command_line_is_what_was_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "bin" / "crl"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys, "argv", [str(program), "age", "train", "--run.dir", "my run"])
    monkeypatch.setenv("PATH", "/usr/bin")
    assert command_line() == f"{program} age train --run.dir 'my run'"
    monkeypatch.setenv("PATH", f"/usr/bin:{program.parent}")
    assert command_line() == "crl age train --run.dir 'my run'"
    monkeypatch.setattr(sys, "argv", ["/x/agecls/__main__.py", "train"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", "-m", "agecls", "train"])
    assert command_line() == ".venv/bin/python -m agecls train"


def test_the_command_line_of_several_processes_starts_them_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(sys, "argv", ["/x/agecls/__main__.py", "train"])
    assert command_line() == "torchrun --nproc_per_node 4 -m agecls train"
    monkeypatch.setattr(sys, "argv", ["/nowhere/crl", "age", "train"])
    assert command_line() == "torchrun --nproc_per_node 4 --no-python /nowhere/crl age train"

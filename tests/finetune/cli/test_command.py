"""Commands: one result, one exit code, and a failure told in a sentence without a traceback."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune.cli import console
from finetune.cli.command import Command, choose_command, command_line, run_command
from finetune.errors import DataError, InterruptedRunError, ModelFileError, ResourceError, UsageError
from finetune.training.config import FitConfig


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
    monkeypatch.setattr(sys, "flags", SimpleNamespace(safe_path=True))
    assert command_line() == ".venv/bin/python -P -m agecls train"


def test_the_command_line_of_several_processes_starts_them_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(sys, "argv", ["/x/agecls/__main__.py", "train"])
    assert command_line() == "torchrun --nproc_per_node 4 -m agecls train"
    monkeypatch.setattr(sys, "argv", ["/nowhere/crl", "age", "train"])
    assert command_line() == "torchrun --nproc_per_node 4 --no-python /nowhere/crl age train"


def test_what_the_system_refuses_is_a_sentence_with_the_place(capsys: pytest.CaptureFixture[str]):
    refused = PermissionError(13, "Permission denied", "/far/away")
    assert run_command(doing(refused), [], prog="crl test") == 5
    told = capsys.readouterr().err
    assert told.startswith("crl test: /far/away: Permission denied. Choose a place")


def test_sigterm_ends_a_command_as_ctrl_c_does_and_leaves_no_handler(capsys: pytest.CaptureFixture[str]):
    cleaned = []

    def run(config: FitConfig, words: Mapping[str, str]) -> dict[str, Any]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned.append(True)
        return {}

    assert run_command(Command(FitConfig, "waits", run), [], prog="crl test") == 130
    assert (cleaned, signal.getsignal(signal.SIGTERM)) == ([True], signal.SIG_DFL)


def test_a_reader_that_has_seen_enough_is_no_failure():
    code = (
        "from dataclasses import dataclass\n"
        "from finetune.cli.command import Command, run_command\n"
        "from finetune.cli.console import say\n"
        '@dataclass(frozen=True)\nclass No:\n    """Nothing."""\n'
        "def run(config, words):\n    [say('x' * 1000) for _ in range(1000)]\n    return {}\n"
        "raise SystemExit(run_command(Command(No, 'talks', run), [], prog='p'))\n"
    )
    talker = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    command = f"{talker} | head -1 >/dev/null; echo ${{PIPESTATUS[0]}}"
    found = subprocess.run(
        ["bash", "-c", command],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (found.stdout.strip(), found.stderr) == ("0", "")

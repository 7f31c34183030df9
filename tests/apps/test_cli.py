from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, is_dataclass
from importlib import metadata
from pathlib import Path
from typing import get_type_hints

import pytest

from agecls.commands import COMMANDS as AGE_COMMANDS
from apps import cli
from apps.cli import main
from apps.commands import COMMANDS
from finegrained.commands import COMMANDS as FINE_COMMANDS
from generalcls.commands import COMMANDS as GENERAL_COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.alone
def test_help_answers_in_under_half_a_second():
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        found = in_a_process("from apps.cli import main; main(['--help'])")
        seconds.append(time.perf_counter() - start)
        assert "usage: crl" in found.stdout
    assert min(seconds) < 0.5, seconds


@pytest.mark.parametrize(
    "argv", ["['--help']", "['age', '--help']", "['age', 'cv', '--help']", "['curves', '-h']"]
)
def test_help_needs_no_torch(argv):
    code = f"import sys; from apps.cli import main; sys.exit(main({argv}) or 'torch' in sys.modules)"
    assert in_a_process(code).returncode == 0


def test_what_is_not_there_is_refused_before_torch_is_imported(tmp_path):
    asked = ["age", "cv", f"--data.root={tmp_path}", f"--run.dir={tmp_path / 'run'}"]
    more = (
        ["--data.root=nowhere"],
        ["--train.epoch=3"],
        ["--model.weights=nothing.pth"],
        ["--train.lr=.inf"],
    )
    code = (
        "import sys; from apps.cli import main\n"
        f"print([main([*{asked}, *words]) for words in {more}], 'torch' in sys.modules)"
    )
    assert in_a_process(code).stdout == "[3, 2, 4, 2] False\n"


@pytest.mark.usefixtures("as_in_a_terminal")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_while_a_command_is_imported_is_no_traceback(capsys, monkeypatch, name):
    def imports(_words):
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(5)

    monkeypatch.setattr(cli, "_run", imports)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "crl: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_help_names_every_command(capsys, argv):
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  age {name} " in shown for name in AGE_COMMANDS)
    assert all(f"\n  {name} " in shown for name in COMMANDS)


def test_version_is_the_installed_one(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"crl-toolkit {metadata.version('crl-toolkit')}\n"


def test_crl_is_the_console_script():
    [script] = metadata.entry_points(group="console_scripts", name="crl")
    assert script.load() is main


@pytest.mark.parametrize(
    ("argv", "near"), [(["aeg"], "age"), (["quickstrat"], "quickstart"), (["age", "comapre"], "compare")]
)
def test_a_misspelt_command_is_refused_with_the_nearest_one(capsys, argv, near):
    assert main(argv) == 2
    assert f"did you mean {near}?" in capsys.readouterr().err


def test_age_alone_lists_its_commands(capsys):
    assert main(["age"]) == 0
    shown = capsys.readouterr().out
    assert all(command.about in shown for command in AGE_COMMANDS.values())


@pytest.mark.parametrize("words", ["", "--help", "--version", "fine", "cache --help"])
def test_what_is_only_printed_and_cannot_be_kept_is_no_success(words: str):
    line = f"{sys.executable} -m apps.cli {words} >/dev/full"
    done = subprocess.run(["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert "the standard output could not be written" in done.stderr


def test_only_commands_that_build_a_network_take_an_image_size():
    """What reads a run or an exported model has that model's size: no other one can be asked for."""

    def sizes(kind: type) -> bool:
        hints = get_type_hints(kind)
        names = {item.name: hints[item.name] for item in fields(kind)}
        return "image_size" in names or any(sizes(hint) for hint in names.values() if is_dataclass(hint))

    tasks = {"age": AGE_COMMANDS, "fine": FINE_COMMANDS, "general": GENERAL_COMMANDS, "": COMMANDS}
    found = {
        f"{task} {name}".strip()
        for task, commands in tasks.items()
        for name, command in commands.items()
        if sizes(command.config_type)
    }
    trained = {f"{task} {name}" for task in ("age", "fine", "general") for name in ("train", "study")}
    trained |= {"age tune", "fine tune"}
    assert found == trained | {"age cv", "fine cost", "general verify"}

"""The run of all checks: what it tells, what it writes, and that no check stops the others."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from apps.commands import COMMANDS
from apps.config import DoctorConfig
from apps.doctor.gpu import card as cards
from apps.doctor.gpu import run as doctor
from apps.doctor.gpu import setup as setups
from apps.doctor.gpu.card import Card, find_card
from apps.doctor.gpu.check import Check
from apps.doctor.gpu.checks import traffic
from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.run import look_over
from apps.doctor.gpu.setup import TINY
from apps.doctor.gpu.table import CHECKS
from apps.runtime.cuda_driver import Problem
from finegrained.cost.meters import TensorMemory
from finetune.cli.command import run_command
from finetune.errors import ResourceError, UsageError
from finetune.training.loop import LossWatch
from tests.apps.doctor.gpu.fake_card import FakeCard, setup_in

Patch = pytest.MonkeyPatch
ROOT = Path(__file__).resolve().parents[4]
FINE = Outcome("ok", "all is well", {"error": 1e-7})


def raising(error: BaseException) -> Callable[[Any], Outcome]:
    def check(_setup: Any) -> Outcome:
        raise error

    return check


def table(*runs: Callable[[Any], Outcome] | Outcome) -> tuple[Check, ...]:
    """Return checks that do this, the last of which --quick leaves out."""
    given = [run if callable(run) else (lambda _setup, run=run: run) for run in runs]
    last = len(given)
    return tuple(Check(n, f"check {n}", run, 10.0, quick=n < last) for n, run in enumerate(given, 1))


def test_a_sound_gpu_is_told_check_by_check_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "gpu-check.json"
    found = look_over(FakeCard(), file, sizes=TINY, checks=table(FINE, Outcome("note", "slow", {}, "hurry")))
    out = capsys.readouterr().out
    assert re.search(r"^ok     1 check 1: all is well \[0 s; about 10 s left\]$", out, re.MULTILINE)
    assert re.search(r"^note   2 check 2: slow \[0 s\]\n +-> hurry$", out, re.MULTILINE)
    assert "nothing is wrong; 1 note" in out
    written = json.loads(file.read_text())
    assert (found["ok"], written["verdict"], written["finished"], written["schema"]) == (
        True,
        "note",
        True,
        1,
    )
    assert written["device"]["name"] == "a drawn GPU"
    assert (written["device"]["driver"], "torch" in written["versions"]) == ("580.65", True)
    assert written["checks"][0]["numbers"] == {"error": 1e-7}


def test_a_check_that_breaks_down_is_wrong_and_stops_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    faults = (
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("no such thing"),
    )
    checks = table(*map(raising, faults), FINE)
    with pytest.raises(ResourceError, match="3 wrong: 1 check 1, 2 check 2, 3 check 3") as error:
        look_over(FakeCard(), tmp_path / "found.json", sizes=TINY, checks=checks)
    assert error.value.exit_code == 5
    assert error.value.result is not None
    results = error.value.result["checks"]
    assert [result["status"] for result in results] == ["wrong", "wrong", "wrong", "ok"]
    assert [result["repair"] for result in results[:3]] == [doctor.LOST, doctor.NO_MEMORY, doctor.UNKNOWN]
    assert "WRONG  3 check 3: ValueError: no such thing" in capsys.readouterr().out


def test_quick_leaves_out_the_long_checks_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "found.json"
    look_over(FakeCard(), file, quick=True, sizes=TINY, checks=table(FINE, raising(ValueError())))
    assert "--quick leaves out the checks 2" in capsys.readouterr().out
    assert [check["number"] for check in json.loads(file.read_text())["checks"]] == [1]
    assert [check.number for check in CHECKS if not check.quick] == [8, 11, 12]
    assert [check.number for check in CHECKS] == list(range(1, 13))
    assert sum(check.seconds for check in CHECKS) < doctor.MOST_SECONDS


def test_an_interrupt_keeps_what_was_found_so_far(
    tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "find_card", lambda wish: FakeCard())
    plain = look_over
    started: list[subprocess.Popen[str]] = []

    def interrupted(setup: Any) -> Outcome:
        started.append(setup.start("import time; time.sleep(60)"))
        raise KeyboardInterrupt

    monkeypatch.setattr(setups, "module_command", lambda module, code, *words: [sys.executable, "-c", code])
    checks = table(FINE, interrupted, FINE)
    monkeypatch.setattr(
        doctor, "look_over", lambda card, file, _all, **named: plain(card, file, checks, **named)
    )
    assert run_command(COMMANDS["doctor"], ["--gpu"], prog="crl doctor") == 130
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert (written["finished"], len(written["checks"])) == (False, 1)
    assert started[0].returncode == -signal.SIGKILL
    assert "what was found so far, in 0 s; written to gpu-check.json" in capsys.readouterr().out


def test_the_file_names_neither_user_nor_machine_nor_path(tmp_path: Path, monkeypatch: Patch):
    monkeypatch.setattr(doctor.getpass, "getuser", lambda: "ada")
    monkeypatch.setattr(doctor.socket, "gethostname", lambda: "analytic-engine.example.org")
    error = OSError(
        f"ada cannot read {tmp_path}/x/a.jpg on analytic-engine"
    )  # without domain, as NCCL tells it
    file = tmp_path / "found.json"
    with pytest.raises(ResourceError):
        look_over(FakeCard(), file, sizes=TINY, checks=table(raising(error), FINE))
    text = file.read_text()
    assert "(name) cannot read a.jpg on (name)" in text
    assert "ada" not in re.findall(r"\w+", text)
    assert str(tmp_path) not in text


def test_the_file_may_lie_in_a_new_folder_and_is_no_folder(tmp_path: Path, monkeypatch: Patch):
    monkeypatch.setattr(doctor, "find_card", lambda wish: FakeCard())
    plain = look_over
    monkeypatch.setattr(
        doctor, "look_over", lambda card, file, _all, **named: plain(card, file, table(FINE, FINE), **named)
    )
    out = tmp_path / "new" / "found.json"
    assert doctor.run_gpu_doctor(DoctorConfig(gpu=True, out=str(out)))["ok"]
    assert out.is_file()
    with pytest.raises(UsageError, match="is a folder: give"):
        doctor.run_gpu_doctor(DoctorConfig(gpu=True, out=str(out.parent)))


def test_what_is_given_on_the_line_reaches_the_doctor(tmp_path: Path, monkeypatch: Patch):
    asked: list[Any] = []
    monkeypatch.setattr(doctor, "run_gpu_doctor", lambda config: asked.append(config) or {})
    out = str(tmp_path / "a.json")
    for words in (["--gpu"], ["--gpu", "cuda:1"], ["--gpu", "--quick"], ["--gpu=cuda:0", "--out", out]):
        assert run_command(COMMANDS["doctor"], words, prog="crl doctor") == 0
    assert [config.gpu for config in asked] == [True, "cuda:1", True, "cuda:0"]
    assert [config.quick for config in asked] == [False, False, True, False]
    assert asked[3].out == out


@pytest.mark.parametrize("words", [{"quick": True}, {"out": "a.json"}, {"gpu": True, "backbone": "resnet18"}])
def test_options_that_do_not_go_together_are_refused(words: dict[str, Any]):
    with pytest.raises(UsageError, match="--gpu"):
        DoctorConfig(**words)


@pytest.mark.parametrize("why", ["build", "driver", "torch", "kernels"])
def test_without_a_usable_gpu_the_reason_is_told(monkeypatch: Patch, why: str):
    problem = Problem("there is no GPU 1", "the driver counts 1, from cuda:0 on")
    monkeypatch.setattr(torch.version, "cuda", None if why == "build" else "13.0")
    monkeypatch.setattr(cards, "driver_problem", lambda index: problem if why == "driver" else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: why != "torch")
    monkeypatch.setattr(
        Card, "unserved", lambda card: "no kernels for Tesla V100" if why == "kernels" else None
    )
    told = {
        "build": "is built without CUDA. Install a CUDA build",
        "driver": "there is no GPU 1. What to do: the driver counts 1",
        "torch": "does not take the driver. What to do: update the NVIDIA driver",
        "kernels": "no kernels for Tesla V100. Train on the CPU",
    }
    with pytest.raises(ResourceError, match=re.escape(told[why])) as error:
        find_card("cuda:1")
    assert error.value.exit_code == 5
    with pytest.raises(UsageError, match="--gpu takes cuda or cuda:N"):
        find_card("rocm")


def test_a_process_sees_the_chosen_gpu_alone(monkeypatch: Patch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Card(torch.device("cuda")).environment() == {}
    assert Card(torch.device("cuda:1")).environment() == {"CUDA_VISIBLE_DEVICES": "1"}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert Card(torch.device("cuda:1")).environment() == {"CUDA_VISIBLE_DEVICES": "7"}


def test_processes_that_fail_or_never_end_are_told_and_ended(tmp_path: Path, monkeypatch: Patch):
    monkeypatch.setattr(setups, "module_command", lambda module, code, *words: [sys.executable, "-c", code])
    setup = setup_in(tmp_path)
    failing = setup.start("print('a'); raise SystemExit('out of patience')")
    with pytest.raises(ResourceError, match="exit code 1: out of patience"):
        setup.finish([failing])
    hasty = setups.Setup(setup.card, tmp_path, TINY, seconds=0.2, running=setup.running)
    waiting = hasty.start("import time; time.sleep(60)")
    with pytest.raises(ResourceError, match="no answer within 0 s"):
        hasty.finish([waiting])
    hasty.end()
    assert waiting.returncode is not None


def test_the_worst_fault_decides_and_comes_first():
    found = Findings()
    found.add("a is right", a=1)
    found.fault("note", "b is slow", "hurry")
    found.require(False, "c is off", "fix c")
    found.require(True, "d is off", "fix d")
    outcome = found.outcome()
    assert (outcome.status, outcome.found) == ("wrong", "c is off; b is slow; a is right")
    assert outcome.repair == "fix c\nhurry"


def test_the_page_explains_every_check():
    page = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    table = page.split("## What is checked")[1].split("## What to do")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]+?) \|", table, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(check.number, check.name) for check in CHECKS]


class CountedCard(FakeCard):
    """Its allocator is the count of all tensors."""

    def peak_of(self, work: Callable[[], object]) -> int:
        with TensorMemory([]) as memory:
            work()
        return memory.peak


@pytest.mark.exhaustive  # a minute each on a quiet machine: eleven processes, two exports
@pytest.mark.timeout(900)
@pytest.mark.parametrize("numbers", [range(1, 7), range(7, 8), range(8, 13)], ids=["1-6", "7", "8-12"])
def test_every_check_runs_whole_on_the_processor(tmp_path: Path, monkeypatch: Patch, numbers: range):
    # The loss watch looks at every step on a CPU, and mixup's targets are checked there by reading them.
    monkeypatch.setattr(LossWatch, "look", lambda watch: watch.recent.clear())
    monkeypatch.delitem(traffic.CASES, "mixup")
    monkeypatch.setattr(doctor, "MOST_SECONDS", 0.0)  # nothing is compiled
    checks = [check for check in CHECKS if check.number in numbers]
    start = time.monotonic()
    try:
        found = look_over(CountedCard(), tmp_path / "found.json", sizes=TINY, checks=checks)
    except ResourceError as error:
        found = dict(error.result or {})
    told = {check["number"]: (check["status"], check["found"]) for check in found["checks"]}
    assert set(told) == set(numbers)
    machines_own = (3, 11)  # whether there is a compiler, and whether the CPU is quiet
    passing = {number: what for number, what in told.items() if number not in machines_own}
    assert {number: what for number, what in passing.items() if what[0] != "ok"} == {}
    assert 11 not in told or "img/s by our loader" in told[11][1]
    assert found["seconds"] <= time.monotonic() - start + 0.05, "it is rounded to a tenth"

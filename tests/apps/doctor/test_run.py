from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from apps.commands import COMMANDS
from apps.config import DoctorConfig
from apps.doctor import run as doctor
from apps.doctor.run import Finding, finish_probe, run_doctor, told
from finetune.cli.command import run_command
from finetune.cli.console import reset
from finetune.errors import ResourceError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _speak():
    yield
    reset()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """A doctor whose probes find what the list holds."""
    found = [Finding("serving device", "ok", "cpu loads")]
    done = SimpleNamespace(poll=lambda: 0)
    monkeypatch.setattr(doctor, "_start_probes", lambda config: {"runtime": done})
    monkeypatch.setattr(doctor, "finish_probe", lambda name, process, seconds: found)
    monkeypatch.setattr(doctor, "find_twins", list)
    return found


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_sound_installation_exits_with_0(quick: list[Finding], capsys):
    assert run_command(COMMANDS["doctor"], [], prog="crl doctor") == 0
    out = capsys.readouterr().out
    assert "ok     serving device: cpu loads" in out
    assert "  pretrained weights: " in out
    assert "nothing is wrong" in out


def test_something_wrong_exits_with_5_after_everything_was_told(quick: list[Finding], capsys):
    quick.append(Finding("duplicate packages: OpenCV", "wrong", "both installed", "pip uninstall -y a"))
    assert run_command(COMMANDS["doctor"], [], prog="crl doctor") == 5
    told_all = capsys.readouterr()
    assert "WRONG  duplicate packages: OpenCV: both installed\n       -> pip uninstall -y a" in told_all.out
    assert "threads: " in told_all.out
    assert told_all.err == "crl doctor: 1 wrong: duplicate packages: OpenCV; the fixes are above\n"


def test_the_findings_are_json_even_when_something_is_wrong(quick: list[Finding], capsys):
    quick.append(Finding("x", "wrong", "broken"))
    assert run_command(COMMANDS["doctor"], ["--json"], prog="crl doctor") == 5
    result = json.loads(capsys.readouterr().out)
    assert (result["ok"], result["wrong"]) == (False, 1)
    assert {"name": "x", "status": "wrong", "found": "broken", "repair": ""} in result["checks"]


def test_the_error_carries_the_findings(quick: list[Finding]):
    quick.append(Finding("x", "wrong", "broken"))
    with pytest.raises(ResourceError) as error:
        run_doctor(DoctorConfig())
    assert error.value.result["wrong"] == 1


def test_a_crash_is_a_finding_and_not_the_doctors_end():
    crash = "import os, signal, sys; sys.stderr.write('two OpenCVs\\n'); os.kill(os.getpid(), signal.SIGSEGV)"
    (finding,) = finish_probe("pictures", python(crash), 20)
    assert finding.status == "wrong"
    assert finding.found == "the check broke down (killed by SIGSEGV): two OpenCVs"
    assert finding.repair == "python -P -m apps.doctor.probes pictures shows all of it"
    (finding,) = finish_probe("torch", python("raise ImportError('libtorch.so')"), 20)
    assert finding.found == "the check broke down (exit code 1): ImportError: libtorch.so"


@pytest.mark.alone
def test_a_check_without_an_end_is_ended():
    start = time.perf_counter()
    (finding,) = finish_probe("torch", python("import time; time.sleep(60)"), 0.3)
    assert finding.status == "wrong"
    assert "gave no answer within" in finding.found
    assert time.perf_counter() - start < 10


def test_noise_before_the_findings_is_passed_over():
    code = 'print(\'a library says hello\'); print(\'[{"name":"x","status":"ok","found":"y"}]\')'
    assert finish_probe("torch", python(code), 20) == [Finding("x", "ok", "y")]


def test_long_lines_are_wrapped_and_commands_are_not():
    command = "pip uninstall -y " + "a-package-with-a-long-name " * 6
    lines = told(Finding("x", "note", "word " * 40, command)).splitlines()
    assert all(len(line) <= doctor.WIDTH for line in lines[:-1])
    assert lines[-1].strip() == f"-> {command.strip()}"


def test_the_real_doctor_answers_in_seconds_and_imports_nothing_large(tmp_path: Path):
    code = (
        "import sys; from apps.doctor.run import run_doctor; from apps.config import DoctorConfig\n"
        "found = run_doctor(DoctorConfig())\n"
        "large = {'torch', 'timm', 'albumentations', 'onnxruntime', 'gradio'} & set(sys.modules)\n"
        "print(sorted(large), found['ok'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    lines = run.stdout.splitlines()
    assert lines[-1] == "[] True"
    assert run.stderr == ""
    for name in ("python", "packages", "duplicate packages", "training device", "serving device", "opencv"):
        assert any(line[7:].startswith(f"{name}: ") for line in lines), name


def test_an_interrupted_doctor_leaves_no_probe_behind(monkeypatch: pytest.MonkeyPatch):
    probe = python("import time; time.sleep(60)")

    def interrupted() -> list[Finding]:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "_start_probes", lambda config: {"torch": probe})
    monkeypatch.setattr(doctor, "find_twins", interrupted)
    assert run_command(COMMANDS["doctor"], [], prog="crl doctor") == 130
    assert probe.returncode == -signal.SIGKILL

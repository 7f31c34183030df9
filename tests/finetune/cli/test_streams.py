"""Standard streams that are closed, full or of few letters: the work is done, and the exit code says how."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
WORKER = """
import sys
from dataclasses import dataclass
from pathlib import Path
from finetune.cli.command import Command, run_command
from finetune.cli.console import progress, say
from finetune.errors import DataError

@dataclass(frozen=True)
class Options:
    '''What is done.

    Args:
        out: where the end of the work is written.
        fail: end with a failure.
    '''

    out: str = ""
    fail: bool = False

def run(config, words):
    for number in range(300):
        say(f"line {number} " + "x" * 1000)
    with progress(3, "counting") as bar:
        bar.advance(3)
    print("a library's own word", file=sys.stderr)
    with Path(config.out).open("w") as stream:
        stream.write(f"done, opened as {stream.fileno()}")
    if config.fail:
        raise DataError("row 3 is bad: \\u00e4\\u65e5")
    return {"name": "\\u00e4\\u65e5"}

raise SystemExit(run_command(Command(Options, "works long", run), sys.argv[1:], prog="crl work"))
"""


def work(tmp_path: Path, shell: str, *options: str, **environment: str) -> tuple[int, str, str]:
    """Run the worker with `shell` behind it; return its exit code, and both outputs."""
    words = [sys.executable, "-c", WORKER, "--out", str(tmp_path / "end"), *options]
    line = f"{shlex.join(words)} {shell}; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(
        ["bash", "-c", line],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        capture_output=True,
        check=False,
    )
    return found.returncode, found.stdout.decode(), found.stderr.decode(errors="replace")


@pytest.mark.parametrize("shell", ["| head -1", "2>&1 | head -1", ">&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_work_goes_on_when_nobody_reads(tmp_path: Path, shell: str):
    code, _, err = work(tmp_path, shell)
    assert (code, "Traceback" in err) == (0, False), err
    assert int((tmp_path / "end").read_text().split()[-1]) > 2  # no file of ours took a stream's number


def test_a_failure_is_still_the_exit_code_when_nobody_reads(tmp_path: Path):
    for shell in ("2>&1 | head -1", "<&- >&- 2>&-"):
        assert work(tmp_path, shell, "--fail")[0] == 3


def test_an_output_that_could_not_be_kept_is_a_failure_of_its_own(tmp_path: Path):
    code, _, err = work(tmp_path, ">/dev/full")
    assert code == 5
    assert "the standard output could not be written: No space left on device; the work itself is done" in err
    assert (tmp_path / "end").is_file()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "latin-1"},
    ],
)
def test_letters_that_an_output_cannot_hold_are_spelled_out(tmp_path: Path, environment: dict[str, str]):
    code, out, err = work(tmp_path, "", "--json", **environment)
    assert (code, "Traceback" in err) == (0, False), err
    assert json.loads(out) == {"name": "ä日"}
    code, out, err = work(tmp_path, "", "--fail", **environment)
    assert code == 3
    assert r"\u65e5" in err or "日" in err

"""Which tests may be left out: on CI, a skip whose reason allowed_skips.txt does not list fails the run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips.txt")
ASKED = ("1", "true", "yes")


def read_patterns(file: Path = ALLOWED) -> list[str]:
    """Return the reasons that may be given, one a line; `*` stands for any text, `#` begins a remark."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def reason_of(report: pytest.TestReport | pytest.CollectReport) -> str | None:
    """Return why a test was skipped or was expected to fail; None where it ran as usual."""
    if hasattr(report, "wasxfail"):
        return f"xfail: {report.wasxfail}"
    if not report.skipped:
        return None
    told = report.longrepr[2] if isinstance(report.longrepr, (tuple, list)) else str(report.longrepr)
    return " ".join(str(told).removeprefix("Skipped: ").split())


class Skips:
    """Notes every reason, and fails the run at its end for those that no pattern allows."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = list(patterns)
        self.unlisted: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's reason; under xdist the workers' reports arrive here too."""
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note the reason of a whole file."""
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        reason = reason_of(report)
        if reason is not None and not any(fnmatchcase(reason, pattern) for pattern in self.patterns):
            self.unlisted[reason] += 1

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that would have passed."""
        if self.unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Tell what was left out without leave."""
        if not self.unlisted:
            return
        terminalreporter.section("skipped without leave", red=True)
        for reason, count in sorted(self.unlisted.items()):
            terminalreporter.line(f"{count} x {reason}")
        terminalreporter.line(
            "Run them here, or list the reason in tests/allowed_skips.txt and say why there."
        )


def on_ci() -> bool:
    """Return whether the variable CI asks for the check."""
    return os.environ.get("CI", "").lower() in ASKED

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from finetune.cli import console
from finetune.cli.console import format_table, print_json, progress, quiet, say, table, use_json


@pytest.fixture(autouse=True)
def _fresh_console() -> Iterator[None]:
    console.reset()
    yield
    console.reset()


def test_lines_go_to_the_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    say("42 images")
    assert capsys.readouterr() == ("42 images\n", "")


def test_under_json_the_standard_output_holds_one_object_only(capsys: pytest.CaptureFixture[str]) -> None:
    use_json()
    say("reading")
    table("scores", ["loss"], [["crl"]])
    with progress(2, "epoch 1", keep=True) as bar:
        bar.advance(2)
    print_json({"accuracy": float("nan"), "n": 3})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"accuracy": None, "n": 3}
    assert out.count("\n") == 1
    assert "reading" in err
    assert "epoch 1" in err


def test_a_result_that_is_no_object_is_refused() -> None:
    with pytest.raises(TypeError, match="one JSON object, got list"):
        print_json([1])  # type: ignore[arg-type]


def test_quiet_processes_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet()
    say("hello")
    print_json({})
    table("t", ["a"], [])
    with progress(1, "work", keep=True) as bar:
        bar.advance()
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_kept_progress_is_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(range(8), "epoch 3", keep=True) as bar:
        bar.advance(5, loss=2.0)
        assert capsys.readouterr().out == ""
        bar.advance(3, loss=0.51234, stage="all")
    line = capsys.readouterr().out
    assert line.startswith("epoch 3: 8/8 in 0.0 s, ")
    assert line.endswith(" img/s, loss 0.5123, stage all\n")
    assert line.count("\n") == 1


def test_without_a_terminal_other_progress_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(8, "epoch 3") as bar:
        bar.advance(8)
    assert bar.done == 8
    assert capsys.readouterr() == ("", "")


def test_units_done_before_count_for_the_total_and_not_for_the_rate(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress(10, "epoch 3", keep=True, done=10):
        pass
    assert capsys.readouterr().out == "epoch 3: 10/10 in 0.0 s, 0 img/s\n"


def test_work_that_fails_is_not_reported_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError), progress(8, "epoch 3", keep=True):
        raise RuntimeError
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_live_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress(10, "epoch [1/2]", keep=True) as bar:
        bar.advance(4, loss=1.25)
        say("a line beside the bar")
        bar.advance(6)
    shown = terminal.getvalue()
    for part in ("epoch [1/2]", "10/10", "img/s, loss 1.25", "a line beside the bar\n"):
        assert part in shown
    assert sys.stdout is terminal


class Notebook:
    """IPython in a Jupyter kernel, as far as a bar needs it; `cells` holds what each display shows now."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, kernel: bool = True) -> None:
        self.cells: list[str] = []
        self.lines = 0
        shell = SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()
        top, display = ModuleType("IPython"), ModuleType("IPython.display")
        vars(top)["get_ipython"] = lambda: shell
        vars(display)["display"] = self.display
        monkeypatch.setitem(sys.modules, "IPython", top)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, content: dict[str, str], *, raw: bool, display_id: bool) -> SimpleNamespace:
        assert raw
        assert display_id
        place = len(self.cells)
        self.cells.append("")

        def update(content: dict[str, str], *, raw: bool) -> None:
            assert raw
            self.lines += 1
            self.cells[place] = content["text/plain"]

        update(content, raw=True)
        return SimpleNamespace(update=update)


def test_a_notebook_shows_one_line_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    notebook = Notebook(monkeypatch)
    monkeypatch.setattr(console, "NOTEBOOK_SECONDS", 0)
    with progress(8, "epoch <3>") as bar:
        bar.advance(4, loss=0.5)
        assert re.fullmatch(
            r"epoch <3> ━{12}─{12} 4/8 \S+ img/s, loss 0.5(, \d:\d\d left)?", notebook.cells[0]
        )
        bar.advance(4)
    assert notebook.cells == [""]
    with progress(2, "folds", keep=True) as bar:
        bar.advance(2)
    assert notebook.cells[1].startswith(f"folds {'━' * 24} 2/2 ")
    assert capsys.readouterr() == ("", "")


def test_a_notebook_gets_few_lines_however_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = Notebook(monkeypatch)
    with progress(1000, "epoch 1") as bar:
        for _ in range(1000):
            bar.advance()
    assert notebook.lines < 10


@pytest.mark.parametrize("silent", [True, False])
def test_no_bar_where_nobody_speaks_or_ipython_has_no_kernel(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    notebook = Notebook(monkeypatch, kernel=silent)
    if silent:
        quiet()
    with progress(8, "epoch 3") as bar:
        bar.advance(8)
    assert notebook.cells == []


def test_columns_are_aligned_and_numbers_stand_at_the_right() -> None:
    assert format_table(["name", "n"], [["a", 5], ["long name", 12]]).splitlines() == [
        "name        n",
        "---------  --",
        "a           5",
        "long name  12",
    ]
    assert format_table(["a"], []) == "a\n-"


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"every row needs 2 cells \(a, b\)"):
        format_table(["a", "b"], [[1]])


def test_a_table_has_its_title(capsys: pytest.CaptureFixture[str]) -> None:
    table("Losses", ["loss", "exact"], [["ce", 58.2]])
    assert capsys.readouterr().out == "Losses\nloss  exact\n----  -----\nce     58.2\n"

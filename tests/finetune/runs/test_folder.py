from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from finetune.errors import CrlError, DataError, ResourceError, UsageError
from finetune.runs.folder import RunFolder, check_content, read_json_lines, read_table, versions, write_json

CONFIG: dict[str, Any] = {
    "loss": {"name": "crl", "options": {"alpha": 1.5}},
    "train": {"epochs": 3, "seed": 0, "sizes": (1, 2)},
    "run": {"dir": "a", "workers": 2},
    "device": "cpu",
}


def changed(**sections: dict[str, Any]) -> dict[str, Any]:
    return CONFIG | {name: CONFIG[name] | values for name, values in sections.items()}


def test_a_new_folder_holds_its_configuration(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "new" / "run", CONFIG, resume="never") as run:
        assert not run.resumed
        assert yaml.safe_load((run.path / "config.yaml").read_text())["train"]["sizes"] == [1, 2]


def test_a_folder_with_content_is_refused_and_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for resume, proposal in (
        ("never", "--run.resume auto, or choose another folder"),
        ("auto", "holds no run"),
    ):
        with pytest.raises(UsageError, match=proposal) as caught:
            RunFolder.open(tmp_path, CONFIG, resume=resume)  # type: ignore[arg-type]
        assert caught.value.exit_code == 2
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_run_is_refused_unless_resuming(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume="never").close()
    with pytest.raises(UsageError, match="is not empty"):
        RunFolder.open(tmp_path, CONFIG, resume="never")
    with RunFolder.open(tmp_path, CONFIG, resume="auto") as run:
        assert run.resumed
    with pytest.raises(UsageError, match="never or auto, got 'yes'"):
        RunFolder.open(tmp_path, CONFIG, resume="yes")  # type: ignore[arg-type]


def test_a_changed_configuration_is_shown_and_refused(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume="never").close()
    before = (tmp_path / "config.yaml").read_bytes()
    new = changed(loss={"options": {"alpha": 2.0, "beta": 1.0}}, train={"seed": 1})
    with pytest.raises(UsageError) as caught:
        RunFolder.open(tmp_path, new, resume="auto", allow_change=["train.seed"])
    assert "loss.options.alpha: 1.5 -> 2.0\n" in str(caught.value)
    assert "loss.options.beta: (absent) -> 1.0\n" in str(caught.value)
    assert "train.seed" not in str(caught.value)
    assert (tmp_path / "config.yaml").read_bytes() == before
    RunFolder.open(tmp_path, CONFIG, resume="auto").close()  # the lock was given back


@pytest.mark.parametrize("allowed", ["loss.options.alpha", "loss.alpha", "loss.options", "loss", "loss.*"])
def test_an_allowed_change_is_taken_and_recorded(tmp_path: Path, allowed: str) -> None:
    RunFolder.open(tmp_path, CONFIG, resume="never").close()
    new = changed(loss={"options": {"alpha": 2.0}})
    with RunFolder.open(tmp_path, new, resume="auto", allow_change=[allowed]) as run:
        assert run.changes == ("loss.options.alpha: 1.5 -> 2.0",)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["loss"]["options"]["alpha"] == 2.0


def test_what_cannot_change_a_result_may_differ(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume="never").close()
    other = changed(run={"workers": 8}) | {"device": "cuda"}
    with RunFolder.open(tmp_path, other, resume="auto") as run:
        assert run.resumed
        assert run.changes == ()
    with pytest.raises(UsageError, match="device: cpu -> cuda"):
        RunFolder.open(tmp_path, other, resume="auto", free_keys=["run"])


@pytest.mark.parametrize("content", ["a: [1", "just text", "\x00"])
def test_a_damaged_configuration_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(DataError, match=r"config\.yaml"):
        RunFolder.open(tmp_path, CONFIG, resume="auto")


HOLD = """
import json, os, sys, time
from finetune.runs.folder import RunFolder
run = RunFolder.open(sys.argv[1], json.loads(sys.argv[2]), resume="auto")
child = os.fork()
if child == 0:
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""


@pytest.mark.alone
def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    config = json.loads(json.dumps(CONFIG))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), json.dumps(config)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        forked = int(holder.stdout.readline())
        try:
            for resume in ("auto", "never"):
                with pytest.raises(
                    UsageError, match=f"is being written by process {holder.pid} on .* since 20"
                ):
                    RunFolder.open(tmp_path, config, resume=resume, wait_seconds=0.1)
            holder.kill()
            holder.wait()
            os.kill(forked, 0)  # a process of the killed run still lives, and does not hold the folder
            RunFolder.open(tmp_path, config, resume="auto", wait_seconds=0).close()
        finally:
            os.kill(forked, signal.SIGKILL)
            holder.kill()


@pytest.mark.alone
def test_two_writers_in_one_process_are_refused_too(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path, CONFIG, resume="never") as run:
        start = time.monotonic()
        with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
            RunFolder.open(tmp_path, CONFIG, resume="auto", wait_seconds=0.2)
        assert 0.2 <= time.monotonic() - start < 2
        assert run.writer
    RunFolder.open(tmp_path, CONFIG, resume="auto").close()


def test_a_writer_waits_a_moment_for_the_other_to_finish(tmp_path: Path) -> None:
    first = RunFolder.open(tmp_path, CONFIG, resume="never")
    threading.Timer(0.3, first.close).start()
    RunFolder.open(tmp_path, CONFIG, resume="auto", wait_seconds=30).close()


def test_other_processes_of_a_run_write_nothing(tmp_path: Path) -> None:
    with RunFolder.open(tmp_path / "run", CONFIG, resume="never", writer=False) as run:
        run.append_metrics({"epoch": 1})
        run.write_json("run.json", {})
        run.write_table("t.parquet", {"a": np.arange(2)})
        run.truncate_metrics(0)
    assert list(tmp_path.iterdir()) == []


def test_unfinished_writes_are_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    RunFolder.open(tmp_path, CONFIG, resume="never").close()
    (tmp_path / "pictures").mkdir()
    for place in (tmp_path, tmp_path / "pictures"):
        (place / ".crl-1-00.tmp").write_text("half")
    RunFolder.open(tmp_path, CONFIG, resume="auto").close()
    assert sorted(file.name for file in tmp_path.rglob("*")) == [".lock", "config.yaml", "pictures"]


def test_a_run_killed_before_it_began_leaves_a_folder_as_good_as_new(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".crl-1-00.tmp").write_text("half a config.yaml")
    RunFolder.open(tmp_path, CONFIG, resume="never").close()


def test_a_place_where_no_folder_can_be_made_is_told_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "run", tmp_path / ("x" * 256), tmp_path / "file"):
        with pytest.raises(
            ResourceError, match=r"cannot make the run folder .*; choose another one with --run\.dir"
        ):
            RunFolder.open(place, CONFIG, resume="never")
    with pytest.raises(ResourceError, match=r"run/it: .*file is a file; choose another"):
        check_content(tmp_path / "file" / "run" / "it", "never")
    assert ResourceError.exit_code == 5  # as of every place that cannot be written


def test_a_folder_without_the_right_to_write_is_told_with_the_reason(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:  # nothing is forbidden to root
        os.seteuid(65534)
    try:
        for place in (locked, locked / "run"):
            with pytest.raises((UsageError, ResourceError), match="Permission denied; choose"):
                RunFolder.open(place, CONFIG, resume="never")
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["größe 日本 run", "ä" * 127])
def test_folder_names_of_any_letters_work(tmp_path: Path, name: str) -> None:
    with RunFolder.open(tmp_path / name, CONFIG, resume="never") as run:
        run.write_json("run.json", {"ä": 1})
        assert run.read_json("run.json") == {"ä": 1}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    with RunFolder.open(tmp_path / "run", CONFIG, resume="never") as opened:
        yield opened


def test_metrics_are_rows_in_the_order_of_writing(run: RunFolder) -> None:
    assert run.read_metrics() == []
    run.truncate_metrics(0)
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "loss": np.float32(0.5), "val": float("nan")})
    assert run.read_metrics() == [{"epoch": epoch, "loss": 0.5, "val": None} for epoch in (1, 2, 3)]


def test_rows_of_earlier_versions_counted_from_zero_and_are_read_from_one(run: RunFolder) -> None:
    file = run.path / "metrics.jsonl"
    file.write_text('{"epoch": 0, "loss": 2.0}\n{"epoch": 1, "loss": 1.0}\n')
    rows = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    assert run.read_metrics() == read_json_lines(file) == rows
    run.truncate_metrics(2)
    run.append_metrics({"epoch": 3, "loss": 0.5})
    assert run.read_metrics() == read_json_lines(file) == [*rows, {"epoch": 3, "loss": 0.5}]


def test_rows_of_epochs_that_run_again_are_dropped(run: RunFolder) -> None:
    for epoch in range(1, 5):
        run.append_metrics({"epoch": epoch})
    run.truncate_metrics(2)
    assert [row["epoch"] for row in run.read_metrics()] == [1, 2]
    run.append_metrics({"epoch": 3})
    assert [row["epoch"] for row in run.read_metrics()] == [1, 2, 3]


def test_a_row_that_a_kill_cut_short_is_left_out_and_mended(run: RunFolder) -> None:
    run.append_metrics({"epoch": 1})
    with (run.path / "metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "lo')
    assert run.read_metrics() == [{"epoch": 1}]
    run.close()
    with RunFolder.open(run.path, CONFIG, resume="auto") as resumed:
        resumed.append_metrics({"epoch": 2})
        assert resumed.read_metrics() == [{"epoch": 1}, {"epoch": 2}]


def test_a_damaged_row_in_the_middle_is_named(run: RunFolder) -> None:
    (run.path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is damaged"):
        run.read_metrics()


def test_a_row_for_which_the_disk_has_no_room_leaves_no_trace(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.append_metrics({"epoch": 1})

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match="disk full: need 1 MB"):
        run.append_metrics({"epoch": 2})
    assert (run.path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


def test_a_missing_or_damaged_record_is_named(run: RunFolder) -> None:
    with pytest.raises(DataError, match=r"cannot read .*run\.json: No such file"):
        run.read_json("run.json")
    (run.path / "run.json").write_text('{"a": ')
    with pytest.raises(DataError, match=r"run\.json is no valid JSON"):
        run.read_json("run.json")


TABLE = {
    "path": np.array(["a.jpg", "größe 日本.jpg"]),
    "fold": np.array([-1, 4]),
    "age": np.array([31.5, np.nan]),
    "prob_0": np.array([0.1, 0.9], np.float32),
    "right": np.array([True, False]),
}


@pytest.mark.parametrize("rows", [2, 0])
def test_a_table_comes_back_with_its_types(run: RunFolder, rows: int) -> None:
    run.write_table("t.parquet", {name: values[:rows] for name, values in TABLE.items()})
    table = run.read_table("t.parquet")
    assert list(table) == list(TABLE)
    for name, values in TABLE.items():
        np.testing.assert_array_equal(table[name], values[:rows])
        assert table[name].dtype.kind == values.dtype.kind
    assert table["prob_0"].dtype == np.float32


def test_columns_that_are_no_table_are_refused(run: RunFolder) -> None:
    for columns in ({"a": np.arange(2), "b": np.arange(3)}, {"a": np.zeros((2, 2))}, {}):
        with pytest.raises(ValueError, match="one-dimensional columns of one length"):
            run.write_table("t.parquet", columns)
    assert not (run.path / "t.parquet").exists()


def test_a_damaged_table_is_never_read_as_another(run: RunFolder) -> None:
    file = run.path / "t.parquet"
    run.write_table("t.parquet", TABLE)
    content = file.read_bytes()
    for end in range(0, len(content), 101):
        file.write_bytes(content[:end])
        with pytest.raises(CrlError, match=r"t\.parquet"):
            read_table(file)
    with pytest.raises(DataError, match=r"none\.parquet"):
        read_table(run.path / "none.parquet")


def test_versions_tell_what_ran() -> None:
    found = versions()
    assert found["numpy"] == np.__version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert set(found) == {"python", "toolkit", "torch", "timm", "numpy", "albumentations", "opencv"}


def test_the_folder_does_not_pay_for_torch() -> None:
    code = "import sys, finetune.runs.folder, finetune.cli.console; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_report_is_strict_json_with_null_for_nan(tmp_path):
    file = write_json(
        tmp_path / "report.json", {"sd": np.float64("nan"), "n": np.int64(3), "x": np.arange(2)}
    )
    assert json.loads(file.read_text(encoding="utf-8")) == {"sd": None, "n": 3, "x": [0, 1]}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_versions_are_looked_up_once_and_belong_to_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    versions()["torch"] = "mine"
    monkeypatch.setattr("importlib.metadata.version", None)
    assert versions()["torch"] not in ("mine", "not installed")

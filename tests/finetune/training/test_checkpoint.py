from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import pickle
import random
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch import nn

from finetune.errors import ModelFileError, ResourceError
from finetune.training import checkpoint
from finetune.training.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint, state_bytes


def make_state(value: float = 1.0) -> dict[str, Any]:
    return {"weights": torch.full((64, 33), value), "value": value, "names": ["0-2", "4-6"]}


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.file}'",)


def test_everything_a_run_needs_comes_back_equal(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state: dict[str, Any] = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "best": None,
        "nested": (1, 2.5, True, "ä", [OrderedDict(a=1)], {3}, torch.Size([2]), torch.float16),
    }
    save_checkpoint(tmp_path / "a.ckpt", state)
    loaded = load_checkpoint(tmp_path / "a.ckpt")
    assert loaded["nested"] == state["nested"]
    assert checkpoint.weights_hash(loaded["model"]) == checkpoint.weights_hash(model.state_dict())
    assert torch.equal(loaded["half"], state["half"])
    moments, kept = loaded["optimizer"]["state"], optimizer.state_dict()["state"]
    assert all(torch.equal(moments[i][name], kept[i][name]) for i in kept for name in kept[i])


def test_other_programs_can_read_the_file_as_a_torch_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", make_state(3.0))
    assert torch.load(tmp_path / "a.ckpt", weights_only=True)["value"] == 3.0


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"best": np.float64(0.5)}, r"state\['best'\] is a numpy.float64"),
        ({"a": [1, Path("x")]}, r"state\['a'\]\[1\] is a pathlib"),
        ({np.int64(3): 1}, "a key of state is a numpy.int64"),
    ],
)
def test_a_value_that_could_not_be_loaded_is_refused_before_saving(
    tmp_path: Path, value: dict[Any, Any], place: str
) -> None:
    with pytest.raises(TypeError, match=place):
        save_checkpoint(tmp_path / "a.ckpt", value)
    assert list(tmp_path.iterdir()) == []


def test_shared_storages_count_once() -> None:
    weights = torch.zeros(100)
    assert state_bytes({"a": weights, "b": [weights[:10]], "c": torch.zeros(5)}) == 420


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    save_checkpoint(file, make_state())
    content = file.read_bytes()
    ends = {0, 1, 39, 40, 41, *range(0, len(content), 97), *range(len(content) - 45, len(content))}
    for end in sorted(ends):
        file.write_bytes(content[:end])
        with pytest.raises(ModelFileError, match=r"a\.ckpt is damaged"):
            load_checkpoint(file)


def test_a_flipped_bit_is_found_wherever_it_lies(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    save_checkpoint(file, make_state())
    content = file.read_bytes()
    places = {*range(0, len(content), 61), *range(60), *range(len(content) - 60, len(content))}
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"a\.ckpt is damaged"):
            load_checkpoint(file)


def test_extra_bytes_at_the_end_are_damage(tmp_path: Path) -> None:
    file = tmp_path / "a.ckpt"
    save_checkpoint(file, make_state())
    file.write_bytes(file.read_bytes() + b"x")
    with pytest.raises(ModelFileError, match="damaged"):
        load_checkpoint(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.ckpt: No such file"):
        load_checkpoint(tmp_path / "none.ckpt")


def test_a_file_without_a_mapping_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.ckpt", [1])  # type: ignore[arg-type]
    with pytest.raises(ModelFileError, match="holds a list"):
        load_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("form", ["pickle", "torch", "torch with a valid digest"])
def test_a_malicious_file_is_refused_with_its_import_and_nothing_runs(tmp_path: Path, form: str) -> None:
    file, touched = tmp_path / "evil.ckpt", tmp_path / "touched"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Evil(touched)))
    else:
        torch.save({"weights": torch.ones(1), "evil": Evil(touched)}, file)
    if form == "torch with a valid digest":
        content = file.read_bytes()
        file.write_bytes(content + b"CRLCKPT1" + hashlib.sha256(content).digest())
    with pytest.raises(ModelFileError, match=r"(?s)evil\.ckpt is refused.*posix\.system"):
        load_checkpoint(file)
    assert not touched.exists()
    if form == "pickle":  # the twin: loading it the ordinary way does run it
        pickle.loads(file.read_bytes())
        assert touched.exists()


class FullDisk:
    """Fails like a full disk once `limit` bytes were written."""

    def __init__(self, stream: BinaryIO, limit: int) -> None:
        self.stream, self.left = stream, limit

    def write(self, data: bytes) -> int:
        self.left -= len(data)
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.stream.write(data)


@pytest.mark.parametrize("limit", [0, 100, 5_000, 8_900])
def test_a_disk_that_fills_up_while_writing_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    file = tmp_path / "a.ckpt"
    save_checkpoint(file, make_state(1.0))
    plain = checkpoint._DigestStream
    monkeypatch.setattr(checkpoint, "_DigestStream", lambda stream: plain(FullDisk(stream, limit)))  # type: ignore[arg-type]
    with pytest.raises(ResourceError, match=r"disk full: need 1 MB, \d+ MB free at "):
        save_checkpoint(file, make_state(2.0))
    assert load_checkpoint(file)["value"] == 1.0
    assert list(tmp_path.iterdir()) == [file]


LIMITED = """
import resource, sys, torch
from pathlib import Path
from finetune.training.checkpoint import CheckpointFolder
from finetune.errors import ResourceError
folder = CheckpointFolder(Path(sys.argv[1]))
folder.save({"value": 1}, epoch=0, step=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    folder.save({"value": 2, "weights": torch.zeros(1_000_000)}, epoch=0, step=2)
except ResourceError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_real_limit_of_the_system_is_told_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 5, result.stderr
    assert result.stdout.startswith("file size limit reached: need 4 MB, ")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    assert load_checkpoint(tmp_path / "last.ckpt")["value"] == 1


def test_saving_keeps_the_one_before(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    assert folder.load_latest() is None
    for epoch in range(3):
        folder.save(make_state(epoch), epoch=epoch, step=7)
    state, file = folder.load_latest() or pytest.fail("nothing saved")
    assert (state["value"], state["epoch"], state["step"], file.name) == (2, 2, 7, "last.ckpt")
    assert load_checkpoint(folder.previous)["epoch"] == 1
    folder.save_best(make_state(9.0))
    assert folder.load_best()["value"] == 9.0


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_last_checkpoint_is_named_and_the_previous_one_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CheckpointFolder(tmp_path)
    for epoch in range(2):
        folder.save({}, epoch=epoch, step=0)
    damage(folder.last)
    state, file = CheckpointFolder(tmp_path).load_latest() or pytest.fail("nothing saved")
    assert (state["epoch"], file) == (0, folder.previous)
    told = capsys.readouterr().out
    assert f"{folder.last} is damaged" in told
    assert f"continuing from {folder.previous}" in told


def test_a_damaged_checkpoint_never_replaces_a_good_previous_one(tmp_path: Path) -> None:
    for epoch in range(2):
        CheckpointFolder(tmp_path).save({}, epoch=epoch, step=0)
    damage(tmp_path / "last.ckpt")
    resumed = CheckpointFolder(tmp_path)
    resumed.save({}, epoch=2, step=0)
    assert load_checkpoint(resumed.previous)["epoch"] == 0
    assert load_checkpoint(resumed.last)["epoch"] == 2


def test_a_disk_that_cannot_read_the_last_checkpoint_counts_as_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    for epoch in range(2):
        folder.save({}, epoch=epoch, step=0)
    plain = Path.open

    def open_or_fail(file: Path, *arguments: Any) -> Any:
        if file == folder.last:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return plain(file, *arguments)

    monkeypatch.setattr(Path, "open", open_or_fail)
    resumed = CheckpointFolder(tmp_path)
    state, file = resumed.load_latest() or pytest.fail("nothing saved")
    assert (state["epoch"], file) == (0, folder.previous)
    resumed.save({}, epoch=2, step=0)
    assert load_checkpoint(folder.previous)["epoch"] == 0


def test_with_every_checkpoint_damaged_the_run_stops_and_names_them(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    for epoch in range(2):
        folder.save({}, epoch=epoch, step=0)
    damage(folder.last)
    damage(folder.previous)
    with pytest.raises(ModelFileError, match=r"(?s)last\.ckpt is damaged.*previous\.ckpt is damaged"):
        folder.load_latest()


def test_a_kill_between_the_two_renames_leaves_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save({}, epoch=0, step=0)
    rotate = folder._rotate

    def rotate_and_die() -> None:
        rotate()
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "_rotate", rotate_and_die)
    with pytest.raises(KeyboardInterrupt):
        folder.save({}, epoch=1, step=0)
    state, file = CheckpointFolder(tmp_path).load_latest() or pytest.fail("nothing saved")
    assert (state["epoch"], file) == (0, folder.previous)


def write_forever(path: Path, start: int) -> None:
    folder = CheckpointFolder(path)
    for step in range(start, 10**9):
        folder.save({"weights": torch.full((200_000,), float(step))}, epoch=0, step=step)


@pytest.mark.exhaustive  # four seconds alone
@pytest.mark.alone
def test_kill_minus_nine_while_writing_never_costs_a_good_checkpoint(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["finetune.training.checkpoint"])
    dice, reached, stale = random.Random(0), -1, 0
    for _ in range(12):
        before = _last_change(tmp_path)
        writer = context.Process(target=write_forever, args=(tmp_path, reached + 1))
        writer.start()
        deadline = time.monotonic() + 60
        while _last_change(tmp_path) in (None, before) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(dice.uniform(0.05, 0.3))
        writer.kill()
        writer.join()
        state, _file = CheckpointFolder(tmp_path).load_latest() or pytest.fail("no checkpoint was saved")
        assert torch.equal(state["weights"], torch.full((200_000,), float(state["step"])))
        assert state["step"] >= reached
        reached = state["step"]
        stale += len(CheckpointFolder(tmp_path).clean())
        assert {file.name for file in tmp_path.iterdir()} <= {"last.ckpt", "previous.ckpt"}
    assert reached > 12
    assert stale > 0, "no kill fell into a write: the test proves nothing"


def _last_change(folder: Path) -> int | None:
    try:  # between the two renames there is no such file
        return (folder / "last.ckpt").stat().st_mtime_ns
    except FileNotFoundError:
        return None


@pytest.mark.parametrize("name", ["größe 日本 run", "x" * 255])
def test_folders_of_any_name_work(tmp_path: Path, name: str) -> None:
    folder = CheckpointFolder(tmp_path / name)
    folder.save({"a": 1}, epoch=0, step=0)
    assert folder.load_latest() is not None
    shutil.rmtree(tmp_path / name)

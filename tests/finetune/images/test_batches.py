from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import DataError, ResourceError, UsageError
from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import Batch, EvalBatches, TrainBatches, normalise
from finetune.images.cache.source import ImageSource, open_source
from finetune.images.decode import BadImageError
from finetune.images.loading import ring
from finetune.images.manifest import Manifest
from finetune.images.preprocess import center_crop
from finetune.seeding import derive_seed, epoch_order
from tests.finetune.pictures import WARP, write_pictures

COUNT = 23
ROWS = np.arange(2, COUNT)  # 21 rows; 0 and 1 are left to somebody else


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_pictures(tmp_path_factory.mktemp("data"), COUNT)


@pytest.fixture(scope="module")
def source(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    return open_source(manifest, WARP, cache_dir=tmp_path_factory.mktemp("cache"), workers=1)


def train_batches(
    source: ImageSource, rows: np.ndarray = ROWS, policy: str = "standard", **options: int
) -> TrainBatches:
    options = {"batch_size": 4, "seed": 7, **options}
    target = np.arange(len(source)) % 2
    return TrainBatches(source, target, rows, augment=build_augment(policy, WARP), **options)


def eval_batches(
    source: ImageSource, rows: np.ndarray = ROWS, crops: str = "center", **options: int
) -> EvalBatches:
    options = {"batch_size": 4, **options}
    return EvalBatches(source, np.arange(len(source)) % 2, rows, WARP, crops=crops, **options)


def content(batches: Iterator[Batch]) -> list[tuple[bytes, list[int], list[int]]]:
    return [
        (batch.images.numpy().tobytes(), batch.target.tolist(), batch.index.tolist()) for batch in batches
    ]


def test_a_batch_holds_augmented_pictures_with_their_targets(source: ImageSource) -> None:
    augment = build_augment("standard", WARP)
    order = ROWS[epoch_order(len(ROWS), 7, 3)]
    batches = list(train_batches(source).epoch(3))
    assert len(batches) == 5
    for step, batch in enumerate(batches):
        rows = order[4 * step : 4 * step + 4].tolist()
        assert batch.index.tolist() == rows
        assert batch.target.tolist() == [row % 2 for row in rows]
        assert (batch.images.dtype, batch.target.dtype, batch.index.dtype) == (
            torch.uint8,
            torch.int64,
            torch.int64,
        )
        expected = [augment(source[row], derive_seed(7, "augment", 3, row)) for row in rows]
        np.testing.assert_array_equal(batch.images.numpy(), expected)


def test_views_lie_side_by_side_and_the_first_is_what_a_single_one_is(source: ImageSource) -> None:
    augment = build_augment("standard", WARP)
    single = list(train_batches(source).epoch(1))
    for workers in (0, 1):
        batches = list(train_batches(source, views=3, workers=workers).epoch(1))
        for one, many in zip(single, batches, strict=True):
            assert many.crops == 3
            assert torch.equal(many.images[::3], one.images)
            assert torch.equal(many.target, one.target)
            assert torch.equal(many.index, one.index)
            row = int(many.index[2])
            for view in (1, 2):
                expected = augment(source[row], derive_seed(7, "augment", 1, row, view))
                np.testing.assert_array_equal(many.images[6 + view].numpy(), expected)
    with pytest.raises(UsageError, match="at least once, got views 0"):
        train_batches(source, views=0)


def test_rows_can_be_drawn_as_they_look_in_an_epoch_in_any_order(source: ImageSource) -> None:
    batches = train_batches(source)
    shown = list(batches.epoch(2))
    rows, images = torch.cat([batch.index for batch in shown]), torch.cat([batch.images for batch in shown])
    seen = dict(zip(rows.tolist(), images, strict=True))
    assert [part.tolist() for part in batches.epoch_rows(2, 3)] == [b.index.tolist() for b in shown[3:]]
    rows = np.array(sorted(seen))
    for batch in batches.drawn(2, [rows[:5], rows[5:7]]):
        for row, image in zip(batch.index.tolist(), batch.images, strict=True):
            assert torch.equal(image, seen[row])


def test_epochs_differ_and_repeat_exactly(source: ImageSource) -> None:
    batches = train_batches(source)
    first = content(batches.epoch(0))
    assert content(batches.epoch(1)) != first
    assert content(batches.epoch(0)) == first
    assert content(train_batches(source, seed=8).epoch(0)) != first


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4")  # on fewer cores
@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing_over_epochs_and_resume_points(source: ImageSource, workers: int) -> None:
    alone, helped = train_batches(source), train_batches(source, workers=workers)
    for epoch in (0, 1):
        whole = content(alone.epoch(epoch))
        assert content(helped.epoch(epoch)) == whole
        for start in (2, 5):
            assert content(helped.epoch(epoch, start)) == whole[start:] == content(alone.epoch(epoch, start))


def test_an_epoch_given_up_half_way_does_not_disturb_the_next(source: ImageSource) -> None:
    helped = train_batches(source, workers=1)
    abandoned = helped.epoch(0)
    next(abandoned)
    assert content(helped.epoch(1)) == content(train_batches(source).epoch(1))
    with pytest.raises(RuntimeError, match="newer epoch"):
        next(abandoned)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_that_inherit_nothing_are_sent_their_slots(source: ImageSource, method: str) -> None:
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(method, force=True)
    try:
        helped = train_batches(source, policy="crop", workers=1, epochs=2)
        for epoch in (0, 1):
            assert content(helped.epoch(epoch)) == content(train_batches(source, policy="crop").epoch(epoch))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert helped._loader.ring is not None
    assert helped._loader.ring.memory.is_shared()


@pytest.mark.parametrize("slots", [None, 1, 0])
def test_batches_that_are_kept_are_not_overwritten_by_later_ones(
    source: ImageSource, slots: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if slots is not None:  # memory has room for so many batches only
        monkeypatch.setattr(ring, "memory_bytes", lambda: slots * ring.MEMORY_SHARE * 4 * 32 * 32 * 3)
    expected = [content(train_batches(source).epoch(epoch)) for epoch in (0, 1)]
    helped = train_batches(source, workers=1, epochs=2)
    kept = [list(helped.epoch(epoch)) for epoch in (0, 1)]
    assert [content(iter(batches)) for batches in kept] == expected
    halves = [batch.images[2:] for batch in helped.epoch(0)]
    assert [half.numpy().tobytes() for half in halves] == [one[0][2 * 32 * 32 * 3 :] for one in expected[0]]


def test_the_next_epoch_is_begun_when_the_last_batch_of_one_is_given_out(
    source: ImageSource, tmp_path: Path
) -> None:
    alone, noted = train_batches(source), NotedSource(source, tmp_path / "read")
    helped = train_batches(noted, workers=1, epochs=3)
    for epoch in (0, 1):
        assert content(helped.epoch(epoch)) == content(alone.epoch(epoch))
        noted.wait_for(20 * (epoch + 1) + 8)  # two batches of the next one: what a process is asked for
    assert content(helped.epoch(2, 3)) == content(alone.epoch(2, 3)), "begun in vain"
    assert content(helped.epoch(2)) == content(alone.epoch(2))
    before = len(noted)
    assert noted.count() == 20 + 20 + 8 + 8 + 20
    assert len(noted) == before == COUNT


def test_an_epoch_left_while_the_next_is_begun_changes_nothing(source: ImageSource) -> None:
    alone = train_batches(source)
    helped = train_batches(source, workers=2, epochs=9)
    for epoch, steps in enumerate((5, 4, 1, 5, 0, 5)):
        whole, given = content(alone.epoch(epoch)), helped.epoch(epoch)
        assert content(islice(given, steps)) == whole[:steps]
    assert content(helped.drawn(7, [ROWS[:3]])) == content(alone.drawn(7, [ROWS[:3]]))
    assert content(helped.epoch(6)) == content(alone.epoch(6))


def test_workers_do_not_draw_from_the_global_generator(source: ImageSource) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    list(train_batches(source, workers=1).epoch(0))
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_batches_of_one_process(source: ImageSource, world_size: int) -> None:
    whole = list(train_batches(source).epoch(2))
    ranks = [list(train_batches(source, rank=r, world_size=world_size).epoch(2)) for r in range(world_size)]
    for step, batch in enumerate(whole):
        for rank in range(world_size):
            assert torch.equal(ranks[rank][step].images, batch.images[rank::world_size])
            assert torch.equal(ranks[rank][step].index, batch.index[rank::world_size])
    assert {len(batches) for batches in ranks} == {5}


@pytest.mark.parametrize(("count", "steps", "sizes"), [(21, 5, {4}), (4, 1, {4}), (3, 1, {3}), (1, 1, {1})])
def test_the_last_incomplete_batch_is_dropped_unless_it_is_the_only_one(
    source: ImageSource, count: int, steps: int, sizes: set[int]
) -> None:
    batches = train_batches(source, ROWS[:count])
    assert batches.steps_per_epoch == steps
    assert {len(batch.index) for batch in batches.epoch(0)} == sizes
    assert len(list(batches.epoch(0))) == steps


def test_every_picture_is_used_in_some_epoch(source: ImageSource) -> None:
    batches = train_batches(source, policy="none")
    seen = {row for epoch in range(6) for batch in batches.epoch(epoch) for row in batch.index.tolist()}
    assert seen == set(ROWS.tolist())


def test_start_steps_outside_the_epoch_are_refused(source: ImageSource) -> None:
    batches = train_batches(source)
    assert list(batches.epoch(0, 5)) == []
    for start in (-1, 6):
        with pytest.raises(UsageError, match="\\[0, 5\\]"):
            batches.epoch(0, start)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"batch_size": 5, "world_size": 2}, UsageError, "multiple of the 2 processes"),
        ({"batch_size": 0}, UsageError, "batch_size >= 1"),
        ({"workers": -1}, UsageError, "workers >= 0"),
        ({"rank": 2, "world_size": 2}, UsageError, "rank < world_size"),
        ({"rows": ROWS[:1], "world_size": 2}, DataError, "too few for 2"),
        ({"rows": ROWS[:0]}, DataError, "0 training images"),
        ({"rows": np.array([0, COUNT, -1])}, DataError, "\\[0, 22\\]"),
    ],
)
def test_impossible_settings_are_refused(
    source: ImageSource, options: dict[str, int], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        train_batches(source, **options)


def test_targets_must_belong_to_the_source(source: ImageSource) -> None:
    with pytest.raises(DataError, match="3 targets for 23 images"):
        EvalBatches(source, np.zeros(3), ROWS, WARP, batch_size=2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_counts_every_row_exactly_once(source: ImageSource, world_size: int, workers: int) -> None:
    rows = ROWS[::-1]
    seen: list[int] = []
    for rank in range(world_size):
        batches = eval_batches(source, rows, workers=workers, rank=rank, world_size=world_size)
        parts = list(batches)
        assert len(parts) == len(batches)
        seen += [row for batch in parts for row in batch.index.tolist()]
        assert all((batch.target == batch.index % 2).all() for batch in parts)
    assert sorted(seen) == ROWS.tolist()
    if world_size == 1:
        assert seen == rows.tolist()


def test_an_empty_evaluation_has_no_batches(source: ImageSource) -> None:
    for workers in (0, 1):
        assert list(eval_batches(source, ROWS[:0], workers=workers)) == []


@pytest.mark.parametrize(("crops", "count"), [("center", 1), ("flip", 2), ("ten", 10)])
def test_the_crops_of_a_picture_lie_side_by_side(source: ImageSource, crops: str, count: int) -> None:
    (batch,) = eval_batches(source, ROWS[:3], crops)
    assert batch.crops == count
    assert batch.images.shape == (3 * count, 32, 32, 3)
    for place, row in enumerate(ROWS[:3]):
        np.testing.assert_array_equal(batch.images[place * count].numpy(), center_crop(source[row], 32))


def test_unknown_crops_are_refused(source: ImageSource) -> None:
    with pytest.raises(UsageError, match="center, flip, ten"):
        eval_batches(source, crops="nine")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_later_is_named(tmp_path: Path, workers: int) -> None:
    manifest = write_pictures(tmp_path, 6)
    source = open_source(manifest, WARP, cache_dir=None, workers=1)
    manifest.file(4).write_bytes(b"")
    with pytest.raises(BadImageError, match=f"{manifest.file(4).name}: the file is empty") as caught:
        list(eval_batches(source, np.arange(6), workers=workers))
    assert caught.value.path == str(manifest.file(4))


class DeadlySource:
    """Images of which one kills the process that reads it."""

    def __init__(self, source: ImageSource, deadly: int) -> None:
        self.source, self.deadly, self.bad = source, deadly, {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> np.ndarray:
        if row == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source[row]

    def file(self, row: int) -> Path:
        return self.source.file(row)


class NotedSource:
    """Images that note in a file, a byte each, that they were read."""

    def __init__(self, source: ImageSource, notes: Path) -> None:
        self.source, self.notes, self.bad, self.content = source, notes, source.bad, source.content
        notes.touch()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> np.ndarray:
        with self.notes.open("ab") as file:
            file.write(b"x")
        return self.source[row]

    def file(self, row: int) -> Path:
        return self.source.file(row)

    def count(self) -> int:
        return self.notes.stat().st_size

    def wait_for(self, count: int) -> None:
        """Wait until so many were read: a few milliseconds."""
        deadline = time.monotonic() + 20
        while self.count() < count and time.monotonic() < deadline:
            time.sleep(0.002)
        assert self.count() == count


def test_a_dead_worker_is_explained_with_the_files_it_held(source: ImageSource) -> None:
    held = DeadlySource(source, 9)
    batches = eval_batches(held, workers=1)
    with pytest.raises(ResourceError, match="loading process died") as caught:
        list(batches)
    message = str(caught.value)
    waited_for = ROWS[4:8] if source.file(9).name in message else ROWS[:4]  # the first may not have got out
    assert all(source.file(row).name in message for row in waited_for)
    assert "fewer workers" in message
    held.deadly = -1
    assert content(iter(batches)) == content(iter(eval_batches(source)))


def test_a_batch_can_be_pinned_whole(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    (batch,) = eval_batches(source, ROWS[:2], crops="flip")
    there = batch.pin_memory()
    assert [id(tensor) for tensor in pinned] == [id(batch.images), id(batch.target), id(batch.index)]
    assert torch.equal(there.images, batch.images)
    assert (there.crops, batch.pageable) == (2, True)


def test_moving_a_batch_keeps_its_rows_on_the_cpu(source: ImageSource) -> None:
    (batch,) = eval_batches(source, ROWS[:2])
    moved = batch.to("meta")
    assert moved.images.device.type == moved.target.device.type == "meta"
    assert moved.index.tolist() == ROWS[:2].tolist()


def test_normalise_computes_the_formula_in_channels_last() -> None:
    images = torch.randint(
        0, 256, (2, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    result = normalise(images, mean, std)
    plain = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(result.double(), plain.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    assert result.shape == (2, 3, 5, 4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert images.dtype == torch.uint8


def test_normalise_rounds_once_to_the_wished_precision() -> None:
    images = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 16, 16, 3)
    exact = normalise(images, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    half = normalise(images, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), dtype=torch.bfloat16)
    assert torch.equal(half, exact.to(torch.bfloat16))

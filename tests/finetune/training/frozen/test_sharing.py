"""Features that runs share: computed by the first, read by the others, the same bits as a run's own."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import finetune.images.cache.records
import finetune.training.frozen.sharing
import finetune.training.frozen.stage
import finetune.training.predict
from finetune.images.cache.source import CachedSource, FileSource
from finetune.models.backbone import FeatureBackbone, Features
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.frozen.sharing import PLAIN, Sharing, drawn_of, sharing_of
from finetune.training.frozen.store import FeatureStore, Layout, MappedStore
from finetune.training.learner import build_core
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import choose_precision
from finetune.training.predict import predict
from tests.finetune.quick import metrics, quick, task_of, train, trained_hash

pytestmark = pytest.mark.usefixtures("one_thread")
EVERY = np.arange(60)


@pytest.fixture
def own(pictures: Path, tmp_path: Path) -> TrainingData:
    """Return the task with a cache of this test's own: 45 images to train on, eight to validate."""
    task = task_of(pictures)
    assert isinstance(task.source, CachedSource)
    folder = tmp_path / "cache"
    folder.mkdir()
    os.link(task.source.cache_file, folder / task.source.cache_file.name)
    files = [task.source.file(row) for row in EVERY]
    source = CachedSource(folder / task.source.cache_file.name, files, task.source._slots, spec=task.spec)
    return replace(task, source=source, val=EVERY[45:53])


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many images the backbone was asked for in each batch."""
    counts: list[int] = []
    forward = FeatureBackbone.forward

    def count(backbone: FeatureBackbone, images: Tensor) -> Features:
        counts.append(len(images))
        return forward(backbone, images)

    monkeypatch.setattr(FeatureBackbone, "forward", count)
    monkeypatch.setattr(finetune.images.cache.records, "_checked", set())
    return counts


def frozen(**changes: Any) -> FitConfig:
    """Return a run in which only the head learns."""
    return quick(**{"train_epochs": 1, "train_frozen_epochs": 1, "train_augment": "none", **changes})


def outcome(task: TrainingData, folder: Path, config: FitConfig) -> tuple[str, bytes, list[Any]]:
    """Train and test; return the weights' hash, the probabilities' bytes and what was logged."""
    fitted = train(task, folder, config)
    tested = predict(fitted.learner, task, EVERY[53:], config, crops="flip", batch_size=5)
    assert tested["index"].tolist() == EVERY[53:].tolist()
    return trained_hash(fitted), tested["probs"].tobytes(), metrics(folder)


def share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (finetune.training.frozen.stage, finetune.training.predict):
        monkeypatch.setattr(module, "sharing_of", lambda *_given, **_more: None)


def kept(task: TrainingData) -> list[Path]:
    assert isinstance(task.source, CachedSource)
    return sorted(task.source.cache_file.parent.glob("features-*.features"))


def test_the_second_run_asks_the_backbone_for_nothing_and_learns_the_same_bits(
    own: TrainingData,
    tmp_path: Path,
    asked: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    first = outcome(own, tmp_path / "first", frozen())
    assert asked == [8, 8, 8, 8, 8, 5, 8, 10, 4]  # training, validation, the test's images twice
    told = capsys.readouterr().out
    assert "features are computed once: those of one view of each of 45 images are cached in" in told
    other = frozen(train_lr=0.5)
    asked.clear()
    second = outcome(own, tmp_path / "second", other)
    assert asked == []
    told = capsys.readouterr().out
    assert "the frozen backbone's features of one view of each of 45 images are read from" in told
    share_nothing(monkeypatch)
    assert outcome(own, tmp_path / "first alone", frozen()) == first
    assert outcome(own, tmp_path / "second alone", other) == second
    assert first[0] != second[0]


def test_folds_share_what_both_train_or_validate_on(
    own: TrainingData, tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
):
    groups = np.repeat([0, 2, 1], 20)  # not in the order of the rows
    first = replace(own, train=EVERY[:40], val=EVERY[40:], groups=groups)
    second = replace(own, train=EVERY[20:], val=EVERY[:20], groups=groups)
    train(first, tmp_path / "first", frozen())
    assert sum(asked) == 60
    asked.clear()
    shared = train(second, tmp_path / "second", frozen())
    assert asked == []
    share_nothing(monkeypatch)
    alone = train(second, tmp_path / "alone", frozen())
    assert asked == [8, 8, 4] * 3
    assert trained_hash(alone) == trained_hash(shared)
    assert metrics(tmp_path / "alone") == metrics(tmp_path / "second")


def test_damaged_features_are_computed_again(
    own: TrainingData, tmp_path: Path, asked: list[int], capsys: pytest.CaptureFixture[str]
):
    whole = trained_hash(train(own, tmp_path / "first", frozen()))
    largest = max(kept(own), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[1000] ^= 255
    largest.write_bytes(content)
    finetune.images.cache.records._checked.clear()  # as in another process
    asked.clear()
    assert trained_hash(train(own, tmp_path / "second", frozen())) == whole
    assert sum(asked) == 45, "the validation's are whole"
    assert f"{largest} is damaged" in capsys.readouterr().out


@pytest.mark.parametrize("reason", ["large", "full", "locks"])
def test_a_run_keeps_its_own_features_where_they_cannot_be_shared(
    own: TrainingData,
    tmp_path: Path,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def fail(*_given: Any) -> None:
        raise OSError(errno.ENOSPC if reason == "full" else errno.ENOLCK, "no space, or no locks")

    module, said = finetune.training.frozen.sharing, "no space, or no locks"
    if reason == "large":
        monkeypatch.setattr(module, "fits", lambda _need: False)
        said = "are not kept for other runs: that is over a quarter of CRL_CACHE_GB"
    elif reason == "full":
        monkeypatch.setattr(finetune.images.cache.records.RecordWriter, "write", fail)
    else:
        monkeypatch.setattr(finetune.images.cache.records, "try_lock", fail)
    train(own, tmp_path / "run", frozen())
    told = capsys.readouterr().out
    assert said in told
    assert "are cached in memory" in told
    assert kept(own) == []
    assert not list((tmp_path / "cache").glob("*.tmp")) or reason == "locks"


def facts_of(task: TrainingData, config: FitConfig | None = None, **changes: Any) -> dict[str, Any]:
    torch.manual_seed(changes.pop("weights", 0))
    core = build_core(config or frozen(), 3, task.spec)
    with torch.no_grad():
        core.head.classifier.weight.fill_(changes.pop("head", 0.0))  # type: ignore[operator, union-attr]
    precision = choose_precision("cpu", changes.pop("precision", "float32"))
    found = sharing_of(core, task.source, task.spec, precision, World(), deterministic=True)
    assert found is not None
    return dict(found.facts)


def test_a_key_follows_all_that_decides_a_bit(own: TrainingData, monkeypatch: pytest.MonkeyPatch):
    facts = facts_of(own)
    assert facts_of(own, head=1.0) == facts, "another head asks the same"
    others = [
        facts_of(own, weights=1),
        facts_of(own, precision="bfloat16"),
        facts_of(replace(own, spec=replace(own.spec, mean=(0.1, 0.2, 0.3)))),
        facts_of(own, quick(model_backbone="test_efficientnet")),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 7)
        others.append(facts_of(own))
    now = {**finetune.training.frozen.sharing.versions(), "timm": "0"}
    monkeypatch.setattr(finetune.training.frozen.sharing, "versions", lambda: now)
    others.append(facts_of(own))
    assert isinstance(own.source, CachedSource)
    pieces = [[EVERY[:8]], [EVERY[1:9]], [EVERY[:4], EVERY[4:8]], [EVERY[7::-1]]]
    seen = [(0, 0), (1, 0), (0, 1)]
    flipped = [drawn_of(frozen(train_augment="flip", train_seed=seed), view) for seed, view in seen]
    looks = [(facts, piece, PLAIN) for piece in pieces]
    looks += [(other, pieces[0], PLAIN) for other in others]
    looks += [(facts, pieces[0], drawn) for drawn in (*flipped, {"crops": "flip"})]
    cpu = torch.device("cpu")
    files = {Sharing(Path(), own.source, one, cpu).file(rows, drawn) for one, rows, drawn in looks}
    assert len(files) == len(looks) == 14
    shared = Sharing(Path(), own.source, facts, cpu)
    monkeypatch.setattr(CachedSource, "pixel_digests", lambda *_: b"the same images")
    one, moved = [EVERY[:4]], [EVERY[4:8]]
    assert shared.file(one, PLAIN) == shared.file(moved, PLAIN)
    assert shared.file(one, flipped[0]) != shared.file(moved, flipped[0]), "what is drawn goes by the row"
    assert drawn_of(frozen(), 0) == PLAIN, "what validation and training see of an image is the same"


def test_nothing_is_shared_without_a_cache_or_by_several_processes(own: TrainingData):
    core, precision = build_core(frozen(), 3, own.spec), choose_precision("cpu", "float32")
    uncached = FileSource([], own.spec, {})
    given = {"deterministic": True}
    assert sharing_of(core, uncached, own.spec, precision, World(), **given) is None
    assert sharing_of(core, own.source, own.spec, precision, World(rank=0, size=2), **given) is None


def test_a_mapped_store_reads_several_files_in_any_order(tmp_path: Path):
    features = Features(torch.randn(9, 3), {"last": torch.randn(9, 4, 2, 2).bfloat16()})
    layout = Layout.of(features)
    records = layout.pack(features).numpy()

    class Part:
        def __init__(self, values: np.ndarray) -> None:
            self.values = values

    parts: Any = [Part(records[:4]), Part(records[4:5]), Part(records[5:])]
    store: FeatureStore = MappedStore(Layout.from_table(layout.to_table()), parts)
    slots = np.array([8, 0, 4, 3, 5, 4])
    found = store.layout.unpack(store.read(slots))
    assert torch.equal(found.embedding, features.embedding[slots])
    assert torch.equal(found.maps["last"], features.maps["last"][slots])
    whole = MappedStore(layout, [Part(records)])  # type: ignore[list-item]
    assert np.array_equal(whole.read(slots), store.read(slots))

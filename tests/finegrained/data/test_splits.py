"""Hold-outs: exact sizes, no class emptied, the same files in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finegrained.data.splits import as_split, hold_out, split_hash
from finetune.images.manifest import Manifest


def _manifest(sizes: list[int], root: Path = Path()) -> Manifest:
    label = np.repeat(np.arange(len(sizes)), sizes)
    paths = np.array([f"{k}/{n}.jpg" for k, size in enumerate(sizes) for n in range(size)])
    return Manifest(root, tuple(f"c{k}" for k in range(len(sizes))), {"path": paths, "label": label})


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_shares_are_within_one_of_the_quota_and_no_class_gives_its_last_row(
    sizes: list[int], share: float, seed: int
):
    manifest = _manifest(sizes)
    rows = np.arange(len(manifest))
    held = hold_out(manifest, rows, share, seed, "validation")
    taken = np.bincount(manifest.label[held], minlength=len(sizes))
    assert len(set(held.tolist())) == len(held)
    for size, count in zip(sizes, taken.tolist(), strict=True):
        assert count <= max(0, size - 1)
        assert abs(count - share * size) < 1 + 1e-6 or count == size - 1
    if all(size - share * size >= 2 for size in sizes):
        assert len(held) == max(round(share * len(rows)), 1 if share > 0 else 0)


def test_thirty_images_a_class_give_three_each():
    manifest = _manifest([30] * 5)
    held = hold_out(manifest, np.arange(150), 0.1, 0, "validation")
    assert np.bincount(manifest.label[held]).tolist() == [3] * 5


def test_remainders_are_shared_out_by_lot_and_classes_of_one_give_none():
    manifest = _manifest([5, 5, 5, 5, 1])
    taken = np.zeros(5)
    for seed in range(60):
        held = hold_out(manifest, np.arange(21), 0.1, seed, "validation")
        assert len(held) == 2
        taken += np.bincount(manifest.label[held], minlength=5)
    assert taken[4] == 0
    assert taken[:4].min() > 10


def test_a_share_of_nothing_is_nothing():
    manifest = _manifest([5, 5])
    assert hold_out(manifest, np.arange(10), 0.0, 0, "validation").tolist() == []


def test_the_choice_depends_on_files_seed_and_purpose_and_not_on_the_order_of_rows():
    manifest = _manifest([20, 20])
    turned = manifest.select(np.random.default_rng(0).permutation(40))
    rows = np.arange(40)

    def chosen(table: Manifest, seed: int = 0, purpose: str = "validation") -> set[str]:
        return set(table["path"][hold_out(table, rows, 0.2, seed, purpose)].tolist())

    assert chosen(manifest) == chosen(turned)
    assert chosen(manifest) != chosen(manifest, seed=1)
    assert chosen(manifest) != chosen(manifest, purpose="test")


def test_rows_outside_those_given_are_never_taken():
    manifest = _manifest([10, 10])
    rows = np.arange(0, 20, 2)
    assert set(hold_out(manifest, rows, 0.5, 0, "test").tolist()) <= set(rows.tolist())


def test_the_hash_tells_files_and_parts_apart_and_not_the_order_of_rows():
    manifest = _manifest([4])
    turned = manifest.select(np.array([3, 2, 1, 0]))
    one = as_split(manifest, np.array([1, 0]), np.array([2]), np.array([3]))
    assert one.train.tolist() == [0, 1]
    same = as_split(turned, np.array([3, 2]), np.array([1]), np.array([0]))
    assert split_hash(manifest, one) == split_hash(turned, same)
    other = as_split(manifest, np.array([0, 1]), np.array([3]), np.array([2]))
    assert split_hash(manifest, one) != split_hash(manifest, other)


def test_a_row_in_two_parts_is_refused():
    with pytest.raises(ValueError, match="part test"):
        as_split(_manifest([4]), np.array([0, 1]), np.array([2]), np.array([1]))

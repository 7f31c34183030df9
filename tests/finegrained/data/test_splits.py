"""Hold-outs: exact sizes, no class emptied, the same files in any order; equal contents across parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finegrained.data.splits import as_split, content_hashes, equal_contents, hold_out, refuse_seen_pictures
from finetune.errors import DataError
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
        assert len(held) == round(share * len(rows))


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
    assert one.hash == as_split(turned, np.array([3, 2]), np.array([1]), np.array([0])).hash
    assert one.hash != as_split(manifest, np.array([0, 1]), np.array([3]), np.array([2])).hash


def test_a_row_in_two_parts_is_refused():
    with pytest.raises(ValueError, match="part test"):
        as_split(_manifest([4]), np.array([0, 1]), np.array([2]), np.array([1]))


def test_equal_contents_are_pairs_of_learned_and_tested_files(tmp_path: Path):
    manifest = _manifest([5], tmp_path)
    (tmp_path / "0").mkdir()
    for row, content in enumerate([b"aa", b"bb", b"cc", b"aa", b"cc"]):
        manifest.file(row).write_bytes(content)
    split = as_split(manifest, np.array([0, 1]), np.array([2]), np.array([3, 4]))
    assert equal_contents(manifest, split).tested == [("0/0.jpg", "0/3.jpg"), ("0/2.jpg", "0/4.jpg")]
    apart = as_split(manifest, np.array([0, 3]), np.array([], dtype=int), np.array([1]))
    assert equal_contents(manifest, apart) == ([], [], [])


def test_equal_contents_in_training_and_validation_or_of_two_classes_are_found_too(tmp_path: Path):
    manifest = _manifest([3, 2], tmp_path)
    for row, content in enumerate([b"aa", b"bb", b"aa", b"bb", b"cc"]):
        manifest.file(row).parent.mkdir(exist_ok=True)
        manifest.file(row).write_bytes(content)
    found = equal_contents(manifest, as_split(manifest, np.array([0, 1, 3]), np.array([2]), np.array([4])))
    paths = [str(path) for path in manifest["path"]]
    assert found == ([], [(paths[0], paths[2])], [(paths[1], paths[3])])


def folder_of(folder: Path, files: dict[str, bytes], **columns: list[str]) -> Manifest:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    listed = {"path": np.array(list(files)), "label": np.zeros(len(files), dtype=np.int64)}
    return Manifest(folder, ("a",), listed | {name: np.array(part) for name, part in columns.items()})


def trained(folder: Path) -> Manifest:
    files = {"1": b"one", "2": b"two", "3": b"six"}
    return folder_of(folder / "own", files, part=["train", "validation", "test"])


def test_seen_pictures_are_refused_by_their_new_names(tmp_path):
    other = folder_of(tmp_path / "other", {"x": b"new", "y": b"two", "z": b"one"})
    with pytest.raises(DataError, match=r"on 2 of these 3 pictures \(equal bytes\).*\n *y\n *z") as told:
        refuse_seen_pictures(trained(tmp_path), other, np.arange(3), Path("run"))
    assert "own test pictures" in str(told.value)


def test_test_pictures_and_rows_that_are_not_shown_do_not_count(tmp_path):
    other = folder_of(tmp_path / "other", {"x": b"six", "y": b"two", "z": b"longer"})
    refuse_seen_pictures(trained(tmp_path), other, np.array([0, 2]), Path("run"))


def test_how_many_of_the_seen_pictures_can_be_compared_is_told(tmp_path, capsys):
    own = trained(tmp_path)
    (tmp_path / "own" / "1").unlink()
    other = folder_of(tmp_path / "other", {"x": b"one"})
    refuse_seen_pictures(own, other, np.arange(1), Path("run"))
    assert "1 of 2 training and validation pictures of run are still there" in capsys.readouterr().out
    (tmp_path / "own" / "2").unlink()
    refuse_seen_pictures(own, other, np.arange(1), Path("run"))
    told = capsys.readouterr().out
    assert "0 of 2 training and validation pictures" in told
    assert "among them cannot be told" in told


@pytest.mark.parametrize("files", [["1"], ["2"], ["2", "1"]])
def test_gone_pictures_are_refused_by_the_very_list_of_their_paths_and_classes(tmp_path, files):
    own = trained(tmp_path)
    for name in ("1", "2"):
        (tmp_path / "own" / name).unlink()
    other = folder_of(tmp_path / "other", dict.fromkeys(files, b"new"))
    with pytest.raises(DataError, match="very paths and classes"):
        refuse_seen_pictures(own, other, np.arange(len(files)), Path("run"))


def test_kept_hashes_are_compared_although_the_pictures_are_gone(tmp_path, capsys):
    own = trained(tmp_path)
    own = own.with_column("sha256", content_hashes(own))
    for name in ("1", "2"):
        (tmp_path / "own" / name).unlink()
    other = folder_of(tmp_path / "other", {"x": b"one", "y": b"six"})
    with pytest.raises(DataError, match=r"on 1 of these 2 pictures"):
        refuse_seen_pictures(own, other, np.arange(2), Path("run"))
    refuse_seen_pictures(own, other, np.array([1]), Path("run"))
    assert capsys.readouterr().out == ""

"""Adience's reader: counts in both editions, label policies, faults in the files, missing images."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from agecls.data.adience import read_adience
from agecls.data.fold_files import COLUMNS, read_fold_file
from agecls.data.folds import make_splits
from agecls.data.groups import POLICIES
from agecls.synthetic.adience import write_lookalike_adience
from finetune.errors import DataError, UsageError

OFFICIAL = ("(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)")


@pytest.fixture(scope="module")
def odd_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A look-alike with all 31 raw strings, repeated rows, the typo and blank genders."""
    root = tmp_path_factory.mktemp("odd")
    write_lookalike_adience(
        root, users=10, images_per_subject=2, image_size=16, edition="older", with_oddities=True
    )
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five hand-made fold files of two rows each, and an image file for every row."""
    for fold in range(5):
        rows = [_cells(fold, 0, "(0, 2)"), _cells(fold, 1, "(25, 32)")]
        _write_fold(tmp_path, fold, rows)
        for cells in rows:
            folder = tmp_path / "aligned" / cells[0]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"landmark_aligned_face.{cells[2]}.{cells[1]}").write_bytes(b"x")
    return tmp_path


def _cells(fold: int, number: int, age: str, /, **changes: str) -> list[str]:
    values = {
        "user_id": f"{fold}@N0{fold}",
        "original_image": f"{fold}.{number}_o.jpg",
        "face_id": str(10 * fold + number),
        "age": age,
        "gender": "f",
    }
    values |= dict(zip(COLUMNS[5:], ("1", "2", "3", "4", "-5", "0", "60"), strict=True)) | changes
    return [values[name] for name in COLUMNS]


def _write_fold(root: Path, fold: int, rows: list[list[str]], header: tuple[str, ...] = COLUMNS) -> Path:
    file = root / f"fold_{fold}_data.txt"
    file.write_text("\n".join("\t".join(cells) for cells in [list(header), *rows]) + "\n", encoding="utf-8")
    return file


def _raw_rows(root: Path) -> list[tuple[int, list[str]]]:
    lines = [
        (fold, line.split("\t"))
        for fold in range(5)
        for line in (root / f"fold_{fold}_data.txt").read_text().splitlines()[1:]
    ]
    assert all(len(cells) == 12 for _, cells in lines)
    return lines


@pytest.mark.real_data
@pytest.mark.parametrize("edition", ["older", "current"])
@pytest.mark.parametrize(
    ("policy", "published"), [("core8", "core8"), ("paper_table", "paper_table"), ("mivolo", "mivolo_style")]
)
def test_real_counts_are_the_published_ones(
    real_data: Path, real_counts: Path, edition: str, policy: str, published: str
):
    expected = json.loads(real_counts.read_text())[published]
    report = _real(real_data, edition, policy)
    assert report["images"] == expected["total"]
    assert report["per_fold"] == expected["per_fold"]
    assert report["per_group"] == expected["per_group"]
    assert report["fold_by_group"] == expected["per_fold_per_group"]
    assert report["frontal_per_fold"] == expected["frontal_per_fold"]
    assert report["edition"] == edition


@pytest.mark.real_data
def test_real_strings_are_the_published_ones_and_all_31_are_seen(real_data: Path, real_counts: Path):
    expected = json.loads(real_counts.read_text())
    report = _real(real_data, "older", "core8")
    assert len(report["strings"]) == 31
    for age, counts in expected["strings"].items():
        assert report["strings"][age]["rows"] == counts["rows"]
        assert report["strings"][age]["unique"] == counts["unique"]
    assert report["rows_per_fold"] == expected["rows_per_fold_old"]
    assert report["duplicates"] == expected["exact_duplicates"]
    assert report["typo_repaired"] == 72
    assert sum(report["dropped"].values()) + report["images"] == sum(expected["rows_per_fold_dedup"])


@pytest.mark.real_data
def test_gillevi_gives_the_17424_images_of_the_literature_and_their_baseline(real_data: Path):
    report = _real(real_data, "older", "gillevi")
    assert report["images"] == 17424
    assert report["per_fold"] == [4316, 3101, 3339, 2975, 3693]
    assert report["dropped"]["(25, 23)"] == 72
    always = [100 * row[4] / sum(row) for row in report["fold_by_group"]]
    assert np.round(always, 1).tolist() == [36.6, 20.5, 23.3, 30.2, 28.7]


@pytest.mark.real_data
@pytest.mark.parametrize(("policy", "images"), [("l2rclip", 17470), ("gillevi", 17393)])
def test_other_policies_on_the_current_edition(real_data: Path, policy: str, images: int):
    report = _real(real_data, "current", policy)
    assert report["images"] == images
    assert report["duplicates"] == report["typo_repaired"] == 0


@pytest.mark.real_data
def test_real_people_per_group_are_the_published_ones(real_data: Path):
    report = _real(real_data, "older", "core8")
    assert report["subjects_per_group"] == [51, 130, 195, 316, 624, 406, 208, 189]
    assert report["users_per_group"] == [41, 55, 67, 62, 121, 107, 74, 67]
    assert (report["subjects"], report["users"]) == (2119, 162)
    assert report["gender_by_group"]["u"][0] == 1091
    assert report["missing_images"] is None


@pytest.mark.real_data
def test_the_real_faces_of_three_users_are_found_and_the_rest_is_counted(real_data: Path):
    root = real_data / "adience"
    reading = read_adience(root, folds_dir=root / "folds_current", missing="drop")
    assert (reading.report.images, reading.report.users, reading.report.layout) == (1585, 3, "faces")
    assert reading.report.missing_per_fold == [2792, 3092, 3285, 2963, 3676]
    assert all(reading.manifest.file(row).is_file() for row in range(len(reading.manifest)))
    with pytest.raises(DataError, match=r"15808 of 17393 listed images"):
        read_adience(root, folds_dir=root / "folds_current")


def _real(real_data: Path, edition: str, policy: str) -> dict[str, object]:
    root = real_data / "adience"
    return read_adience(
        root, policy=policy, layout="none", folds_dir=root / f"folds_{edition}"
    ).report.to_dict()


@pytest.mark.parametrize("policy", list(POLICIES))
def test_every_policy_counts_what_a_plain_count_of_the_lines_gives(odd_tree: Path, policy: str):
    rule = POLICIES[policy]
    seen: set[tuple[str, ...]] = set()
    table = np.zeros((5, 8), int)
    dropped: Counter[str] = Counter()
    repaired = 0
    for fold, cells in _raw_rows(odd_tree):
        key = (cells[0], cells[1], cells[2])
        if key in seen and policy != "gillevi":
            continue
        seen.add(key)
        age = "(25, 32)" if cells[3] == "(25, 23)" and policy != "gillevi" else cells[3]
        repaired += age != cells[3]
        if age in rule.groups:
            table[fold, rule.groups[age]] += 1
        else:
            dropped[age] += 1
    report = read_adience(odd_tree, policy=policy).report
    assert report.fold_by_group == table.tolist()
    assert report.images == table.sum()
    assert report.dropped == dropped
    assert report.policy == policy
    assert report.typo_repaired == repaired


def test_the_look_alike_holds_all_31_strings_and_every_flaw(odd_tree: Path):
    rows = _raw_rows(odd_tree)
    assert len({cells[3] for _, cells in rows}) == 31
    report = read_adience(odd_tree).report
    assert len(report.strings) == 31
    assert report.duplicates == len(rows) - len({tuple(cells[:3]) for _, cells in rows}) > 0
    assert report.typo_repaired > 0
    assert sum(report.gender_by_group[""]) > 0
    assert report.edition == "unknown"


def test_the_report_can_be_printed_as_json(odd_tree: Path):
    report = read_adience(odd_tree).report.to_dict()
    again = json.loads(json.dumps(report))
    assert again == report
    for key in ("images", "per_fold", "edition", "policy", "subjects", "users", "per_group", "fold_by_group"):
        assert key in again
    for key in ("duplicates", "typo_repaired", "dropped", "missing_images"):
        assert key in again


def test_a_row_becomes_a_path_a_person_and_a_source(tree: Path):
    manifest = read_adience(tree).manifest
    assert manifest["path"][2] == "aligned/1@N01/landmark_aligned_face.10.1.0_o.jpg"
    assert (manifest["subject"][2], manifest["user"][2], manifest["fold"][2]) == ("10", "1@N01", 1)
    assert manifest["source_id"][3] == "fold_1_data.txt:3"
    assert np.isnan(manifest["age"]).all()
    assert manifest.label.tolist() == [0, 4] * 5


def test_ages_without_a_space_and_8_13_are_accepted(tree: Path):
    _write_fold(tree, 0, [_cells(0, 0, "(25,32)"), _cells(0, 1, "(8, 13)")])
    assert read_adience(tree).manifest.label[:2].tolist() == [4, 2]


def test_a_byte_order_mark_crlf_and_blank_lines_change_nothing(tree: Path):
    before = read_adience(tree).manifest.fingerprint
    file = tree / "fold_2_data.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert read_adience(tree).manifest.fingerprint == before


def test_fold_files_are_found_beside_the_pictures_or_in_their_own_folder(tree: Path):
    before = read_adience(tree).manifest.fingerprint
    lists = tree / "lists"
    lists.mkdir()
    for file in tree.glob("fold_*"):
        file.rename(lists / file.name)
    with pytest.raises(DataError, match=r"fold_4_data\.txt(.|\n)*folds_dir"):
        read_adience(tree)
    assert read_adience(tree, folds_dir=lists).manifest.fingerprint == before
    for file in lists.glob("fold_*"):
        file.rename(tree / "aligned" / file.name)
    assert read_adience(tree).manifest.fingerprint == before


def test_one_missing_fold_file_is_named(tree: Path):
    (tree / "fold_3_data.txt").unlink()
    with pytest.raises(DataError, match=r"missing: fold_3_data\.txt;"):
        read_adience(tree)


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (COLUMNS[:-1], "missing fiducial_score"),
        ((*COLUMNS, "note"), r"extra column 13: 'note'"),
        (("user", *COLUMNS[1:]), r"missing user_id; extra column 1: 'user'"),
        (
            (COLUMNS[1], COLUMNS[0], *COLUMNS[2:]),
            r"first difference column 1: 'original_image', not 'user_id'",
        ),
        ((",".join(COLUMNS),), "commas separate the columns"),
        (("7@N00", "a.jpg", "1"), r"no header: the line begins '7@N00'"),
    ],
)
def test_a_wrong_header_is_named_with_file_and_line(tree: Path, header: tuple[str, ...], complaint: str):
    _write_fold(tree, 1, [_cells(1, 0, "(0, 2)")], header)
    with pytest.raises(DataError, match=rf"fold_1_data\.txt, line 1: (.|\n)*{complaint}"):
        read_adience(tree)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"age": "(25-32)"}, r"column 4 \(age\)"),
        ({"age": ""}, r"column 4 \(age\)"),
        ({"gender": "male"}, r"column 5 \(gender\): 'male' must be m, f, u or empty"),
        ({"face_id": "x"}, r"column 3 \(face_id\)"),
        ({"fiducial_yaw_angle": "1.5"}, r"column 11 \(fiducial_yaw_angle\)"),
        ({"original_image": "../../etc/passwd"}, r"column 2 \(original_image\).*plain name"),
        ({"original_image": "a\\b.jpg"}, r"column 2 \(original_image\)"),
        ({"original_image": ""}, r"column 2 \(original_image\)"),
        ({"user_id": ".."}, r"column 1 \(user_id\)"),
    ],
)
def test_a_wrong_cell_is_named_with_file_line_and_column(tree: Path, changes: dict[str, str], complaint: str):
    _write_fold(tree, 2, [_cells(2, 0, "(0, 2)"), _cells(2, 1, "(0, 2)", **changes)])
    with pytest.raises(DataError, match=rf"fold_2_data\.txt, line 3, {complaint}"):
        read_adience(tree)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a\tb", "2 columns, expected 12"),
        (",".join("abcdefghijkl"), "1 columns, expected 12.*in place of tabs"),
    ],
)
def test_a_ragged_line_is_named(tree: Path, line: str, complaint: str):
    with (tree / "fold_0_data.txt").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=rf"fold_0_data\.txt, line 4: {complaint}"):
        read_adience(tree)


def test_text_that_is_not_utf8_and_a_file_without_rows_are_refused(tree: Path):
    file = tree / "fold_0_data.txt"
    file.write_bytes("\t".join(COLUMNS).encode() + b"\n\xff\xfe")
    with pytest.raises(DataError, match="not UTF-8"):
        read_adience(tree)
    file.write_text("\t".join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="no row follows"):
        read_fold_file(file, 0)


def test_one_face_with_two_ages_is_refused_with_both_lines(tree: Path):
    _write_fold(tree, 0, [_cells(0, 0, "(0, 2)"), _cells(0, 0, "(4, 6)")])
    with pytest.raises(
        DataError, match=r"fold_0_data\.txt:2 says \(0, 2\), fold_0_data\.txt:3 says \(4, 6\)"
    ):
        read_adience(tree)


def test_a_face_listed_in_two_folds_is_not_taken_for_a_duplicate(tree: Path):
    _write_fold(tree, 1, [_cells(0, 0, "(0, 2)"), _cells(1, 1, "(25, 32)")])
    reading = read_adience(tree)
    assert reading.report.duplicates == 0
    with pytest.raises(DataError, match=r"path aligned/0@N00/.* is in train and test of fold 0"):
        make_splits(reading.manifest)


def test_a_user_in_two_folds_is_refused_by_name(tree: Path):
    _write_fold(tree, 1, [_cells(1, 0, "(0, 2)", user_id="0@N00"), _cells(1, 1, "(25, 32)")])
    with pytest.raises(DataError, match=r"user 0@N00 is in train and test of fold 0"):
        make_splits(read_adience(tree, layout="none").manifest)


def test_missing_pictures_are_refused_counted_or_dropped_but_never_skipped(tree: Path):
    (tree / "aligned/3@N03/landmark_aligned_face.30.3.0_o.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 10 listed images(.|\n)*face\.30\.3\.0_o\.jpg"):
        read_adience(tree)
    counted = read_adience(tree, missing="count").report
    assert (counted.images, counted.missing_images, counted.missing_per_fold) == (10, 1, [0, 0, 0, 1, 0])
    dropped = read_adience(tree, missing="drop").report
    assert (dropped.images, dropped.missing_images, dropped.per_fold) == (9, 1, [2, 2, 2, 1, 2])
    assert dropped.missing_first == ["aligned/3@N03/landmark_aligned_face.30.3.0_o.jpg"]


def test_without_a_picture_folder_the_lists_can_be_read_when_asked(tree: Path):
    (tree / "aligned").rename(tree / "elsewhere")
    with pytest.raises(DataError, match="neither aligned/ nor faces/"):
        read_adience(tree)
    report = read_adience(tree, missing="count").report
    assert (report.images, report.missing_images, report.layout) == (10, None, "none")
    assert report.notices
    (tree / "faces").mkdir()
    assert read_adience(tree, missing="count").report.missing_images == 10
    with pytest.raises(DataError, match="no image is left"):
        read_adience(tree, missing="drop")


def test_both_layouts_present_take_aligned_and_say_so(tree: Path):
    (tree / "faces").mkdir()
    report = read_adience(tree).report
    assert report.layout == "aligned"
    assert "faces" in report.notices[0]


def test_a_link_out_of_the_picture_folder_is_refused(tree: Path):
    (tree / "aligned/3@N03").rename(tree / "moved")
    (tree / "aligned/3@N03").symlink_to(tree / "moved")
    with pytest.raises(DataError, match="outside the data root"):
        read_adience(tree)
    assert read_adience(tree, follow=True).report.missing_images == 0


def test_names_with_spaces_and_letters_of_any_script_work(tree: Path):
    cells = _cells(0, 0, "(0, 2)", original_image="été 写真.jpg")
    _write_fold(tree, 0, [cells, _cells(0, 1, "(25, 32)")])
    (tree / "aligned/0@N00/landmark_aligned_face.0.été 写真.jpg").write_bytes(b"x")
    assert read_adience(tree).report.missing_images == 0


@pytest.mark.parametrize("choice", [{"policy": "best"}, {"layout": "crops"}, {"missing": "skip"}])
def test_an_unknown_choice_lists_the_known_ones(tree: Path, choice: dict[str, str]):
    with pytest.raises(UsageError, match="choose one of"):
        read_adience(tree, **choice)  # type: ignore[arg-type]


def test_groups_of_the_manifest_go_from_young_to_old(odd_tree: Path):
    age_of = {cells[2]: cells[3] for _, cells in _raw_rows(odd_tree)}
    manifest = read_adience(odd_tree, policy="gillevi").manifest
    expected = [OFFICIAL.index(age_of[face]) for face in manifest["subject"].tolist()]
    assert manifest.label.tolist() == expected
    assert set(expected) == set(range(8))


def test_fold_files_are_read_by_the_rules_of_tables(tree: Path):
    rows = [
        _cells(0, 1, "(0, 2)", face_id="7", user_id="u\u202f1"),
        _cells(0, 2, "(4, 6)", face_id="007", gender="nan"),
    ]
    file = _write_fold(tree, 0, rows)
    text = file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-16")
    read = read_fold_file(file, 0)
    assert [(row.face, row.gender) for row in read][1] == ("007", "")
    assert read[0].user == "u\u202f1"
    reading = read_adience(tree, missing="count")
    first = reading.manifest["source_id"].tolist().index(f"{file.name}:2")
    assert reading.manifest["subject"][first : first + 2].tolist() == ["7", "7"]
    assert any("written in several ways" in notice for notice in reading.report.notices)
    with pytest.raises(DataError, match=r"column 1 \(user_id\): 'nan' is empty or an absent value"):
        read_fold_file(_write_fold(tree, 0, [_cells(0, 1, "(0, 2)", user_id="nan")]), 0)


def test_fold_files_that_are_not_read_and_images_in_none_are_told(tmp_path: Path):
    write_lookalike_adience(tmp_path, users=10, images_per_subject=1, image_size=16)
    assert read_adience(tmp_path).report.notices == []
    first = tmp_path / "fold_0_data.txt"
    (tmp_path / "fold_5_data.txt").write_bytes(first.read_bytes())
    (tmp_path / "fold_frontal_0_data.txt").write_bytes(first.read_bytes())
    (tmp_path / "aligned" / first.name).write_bytes(first.read_bytes() + b"\n")
    image = next((tmp_path / "aligned").rglob("*.jpg"))
    image.with_name("stranger.jpg").write_bytes(image.read_bytes())
    more, others, images = read_adience(tmp_path).report.notices
    assert more == "5 fold files are read; left out are fold_5_data.txt"
    assert others.endswith("aligned lie others: fold_0_data.txt (choose with --data.folds_dir)")
    assert images.startswith("1 images beside the listed ones are in no list and are not used: aligned/")


def test_a_column_that_stands_twice_is_named(tmp_path: Path):
    write_lookalike_adience(tmp_path, users=10, images_per_subject=1, image_size=16)
    file = tmp_path / "fold_0_data.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([f"{lines[0]}\tx", *lines[1:]]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1: named twice: x"):
        read_fold_file(file, 0)

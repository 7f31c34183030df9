"""What `crl age verify` counts, exports and compares; what is opened is checked for every task elsewhere."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from agecls.config import AgeDataConfig, VerifyAgeConfig
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK
from finetune.errors import DataError
from finetune.experiments.data_checks import verify_data
from tests.agecls.data.test_read import twins_in
from tests.agecls.tiny_ages import listed_rows, picture


def verify(config: AgeDataConfig, **options: Any) -> dict[str, Any]:
    """Verify age data with these options of the command."""
    return verify_data(TASK, VerifyAgeConfig(data=config, **options))


OFFICIAL = {"(0, 2)", "(4, 6)", "(8, 12)", "(15, 20)", "(25, 32)", "(38, 43)", "(48, 53)", "(60, 100)"}


@pytest.mark.parametrize("edition", ["current", "older"])
def test_counts_of_a_lookalike_are_those_of_its_fold_files(tmp_path, edition, capsys):
    write_lookalike_adience(
        tmp_path, users=10, images_per_subject=2, image_size=32, edition=edition, with_oddities=True
    )
    unique = {
        (row["user_id"], row["original_image"], row["face_id"]): row
        for row in listed_rows(tmp_path)
        if row["age"].replace("(25, 23)", "(25, 32)") in OFFICIAL
    }
    per_fold = Counter(int(row["fold"]) for row in unique.values())
    result = verify(AgeDataConfig(root=str(tmp_path)))
    assert result["per_fold"] == [per_fold[fold] for fold in range(5)]
    assert result["images"] == len(unique) == sum(result["per_group"])
    assert (result["duplicates"] > 0) == (result["typo_repaired"] > 0) == (edition == "older")
    assert sum(result["dropped"].values()) > 20
    assert result["bad_images"] == {}
    shown = capsys.readouterr().out
    assert all(f"fold {fold}" in shown for fold in range(5))
    assert "no subject, user or file is shared" in shown


def test_both_editions_hold_the_same_faces(tmp_path):
    fingerprints = set()
    for edition in ("current", "older"):
        write_lookalike_adience(tmp_path / edition, users=10, image_size=16, edition=edition)
        result = verify(AgeDataConfig(root=str(tmp_path / edition)), quick=True)
        fingerprints.add((result["manifest"], result["split"]))
    assert len(fingerprints) == 1


def test_lists_alone_are_counted_and_said_to_be_alone(faces, tmp_path):
    for fold in range(5):
        shutil.copy(faces / f"fold_{fold}_data.txt", tmp_path)
    result = verify(AgeDataConfig(root=str(tmp_path)))
    assert result["images"] == len(listed_rows(faces))
    assert "bad_images" not in result
    assert any("no image was looked for" in notice for notice in result["notices"])


def test_missing_pictures_are_counted_and_the_others_opened_before_they_are_refused(faces, tmp_path, capsys):
    shutil.copytree(faces, tmp_path / "faces")
    gone = picture(listed_rows(faces)[4])
    (tmp_path / "faces" / gone).unlink()
    count = len(listed_rows(faces))
    with pytest.raises(DataError, match=rf"1 of {count} listed images are not under .*\n  {gone}$"):
        verify(AgeDataConfig(root=str(tmp_path / "faces")))
    assert f"{count - 1} images opened, 0 cannot be read" in capsys.readouterr().out
    result = verify(AgeDataConfig(root=str(tmp_path / "faces"), missing="drop"))
    assert (result["missing_images"], result["missing_first"]) == (1, [gone])
    assert result["images"] == count - 1


def test_shared_people_are_not_called_exclusive_when_they_are_allowed(faces, tmp_path, capsys):
    config = twins_in(faces, tmp_path)
    text = (tmp_path / "t.csv").read_text().replace(",p3,", ",p0,")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match="subject p0 is in train and test"):
        verify(config)
    verify(AgeDataConfig(table=config.table, fold_column="fold", allow_subject_overlap=True))
    shown = capsys.readouterr().out
    assert "no file is shared" in shown
    assert "no subject" not in shown


def test_folds_of_a_table_keep_their_numbers(faces, tmp_path, capsys):
    config = twins_in(faces, tmp_path)
    lines = [line[:-1] + str(int(line[-1]) + 3) for line in (tmp_path / "t.csv").read_text().split()[1:]]
    (tmp_path / "t.csv").write_text("\n".join(["path,age,subject,fold", *lines]))
    assert verify(config)["per_fold"] == [3, 3]
    assert "fold 4" in capsys.readouterr().out


@pytest.mark.real_data
@pytest.mark.parametrize("edition", ["current", "older"])
def test_real_fold_files_hold_the_published_counts(real_data, edition):
    root = real_data / "adience" / f"folds_{edition}"
    result = verify(AgeDataConfig(root=str(root)))
    assert (result["images"], result["edition"]) == (17393, edition)
    assert result["per_fold"] == [4377, 3092, 3285, 2963, 3676]
    assert result["per_group"] == [2488, 2140, 2124, 1642, 5004, 2293, 830, 872]


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("policy", "images"), [("gillevi", 17424), ("paper_table", 17607), ("mivolo", 18622), ("l2rclip", 17470)]
)
def test_real_fold_files_under_other_policies(real_data, policy, images):
    root = real_data / "adience" / "folds_older"
    assert verify(AgeDataConfig(root=str(root), policy=policy), quick=True)["images"] == images


@pytest.mark.real_data
def test_real_validation_parts_are_the_ones_computed_by_hand(real_data):
    root = real_data / "adience" / "folds_current"
    result = verify(AgeDataConfig(root=str(root), protocol="grouped"), quick=True)
    assert result["validation_per_fold"] == [1705, 1710, 1772, 2110, 1652]


@pytest.mark.real_data
def test_fgnet_is_a_table_of_82_people(real_data):
    result = verify(AgeDataConfig(table=str(real_data / "fgnet" / "fgnet.csv")))
    assert result["rows"] == 1002
    assert result["images"] + result["in_gaps"] == 1002
    assert result["subjects"] == 82
    assert len(result["per_fold"]) == 5
    assert result["bad_images"] == {}


def test_splits_are_exported_and_recognised(faces, tmp_path):
    config, folder = AgeDataConfig(root=str(faces)), tmp_path / "splits"
    split = verify(config, quick=True, export=str(folder))["split"]
    assert verify(config, quick=True, against=str(folder))["split"] == split
    with pytest.raises(DataError, match="other splits of this data"):
        verify(replace(config, protocol="rotate"), quick=True, against=str(folder))

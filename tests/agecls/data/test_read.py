from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from agecls.config import AgeDataConfig
from agecls.data.read import check_contents, make_age_splits, read_data, with_groups_of
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.data_checks import equal_contents
from finetune.images.cache.source import cache_folder
from tests.agecls.tiny_ages import as_table, listed_rows, picture

TABLE = {"group_column": "group", "user_column": "user"}


def table_of(file: Path, *rows: str, header: str = "path,age,subject") -> AgeDataConfig:
    file.write_text("\n".join([header, *rows]) + "\n")
    return AgeDataConfig(table=str(file))


def test_nothing_named_asks_for_a_root_or_a_table():
    with pytest.raises(UsageError, match=r"--data\.root FOLDER .* --data\.table FILE"):
        read_data(AgeDataConfig())


def test_a_folder_that_is_not_there_is_named_with_its_option(faces):
    with pytest.raises(DataError, match=r"--data\.root nowhere: there is no such folder"):
        read_data(AgeDataConfig(root="nowhere"))
    with pytest.raises(DataError, match=r"--data\.folds_dir nowhere"):
        read_data(AgeDataConfig(root=str(faces), folds_dir="nowhere"))


def test_adience_and_its_table_are_the_same_people(faces, tmp_path):
    adience = read_data(AgeDataConfig(root=str(faces)))
    config = AgeDataConfig(
        table=str(as_table(faces, tmp_path / "faces.csv")), root=str(faces), fold_column="fold", **TABLE
    )
    table = read_data(config)
    assert (adience.policy, table.policy) == ("core8", "table")
    for name in ("path", "label", "fold", "subject", "user"):
        assert np.array_equal(np.sort(adience.manifest[name]), np.sort(table.manifest[name])), name


def test_table_without_folds_gets_its_own_by_people(faces, tmp_path):
    config = AgeDataConfig(
        table=str(as_table(faces, tmp_path / "t.csv")), root=str(faces), n_folds=3, **TABLE
    )
    manifest = read_data(config).manifest
    assert set(manifest["fold"].tolist()) == {0, 1, 2}
    pairs = set(zip(manifest["user"].tolist(), manifest["fold"].tolist(), strict=True))
    assert len(pairs) == len(set(manifest["user"].tolist()))


def test_two_people_are_enough_where_no_folds_are_needed(faces, tmp_path):
    rows = [f"{picture(row)},5,{row['face_id']}" for row in listed_rows(faces)[:3]]
    config = table_of(tmp_path / "two.csv", *rows)
    config = AgeDataConfig(table=config.table, root=str(faces))
    with pytest.raises(DataError, match="5 folds need"):
        read_data(config)
    assert len(read_data(config, with_folds=False).manifest) == 3


def test_a_label_out_of_the_groups_is_told_with_its_row(faces, tmp_path):
    file = as_table(faces, tmp_path / "faces.csv")
    text = file.read_text().replace("15-20", "9")
    file.write_text(text)
    bad_rows = [number for number, row in enumerate(csv.reader(text.splitlines()), 1) if row[1] == "9"]
    with pytest.raises(DataError, match=rf"row {bad_rows[0]}: group '9' must be one of 0-2, 4-6, .*60\+"):
        read_data(AgeDataConfig(table=str(file), root=str(faces), **TABLE))


@pytest.mark.parametrize("age", ["-3", "old", "nan", "130"])
def test_an_age_that_cannot_be_is_told_with_its_row(tmp_path, age):
    with pytest.raises(DataError, match=r"row 3: age .* must be a number of years"):
        read_data(table_of(tmp_path / "t.csv", "a.jpg,5,p", f"b.jpg,{age},q"))


def test_missing_pictures_stop_the_reading_unless_dropped(faces, tmp_path):
    row = listed_rows(faces)[0]
    rows = [f"{picture(row)},5,p", "gone.jpg,30,q"]
    file = table_of(tmp_path / "t.csv", *rows).table
    with pytest.raises(DataError, match=r"gone\.jpg"):
        read_data(AgeDataConfig(table=file, root=str(faces)), with_folds=False)
    dropped = read_data(AgeDataConfig(table=file, root=str(faces), missing="drop"), with_folds=False)
    assert (len(dropped.manifest), dropped.report["missing_images"]) == (1, 1)


def test_unreadable_pictures_are_dropped_and_listed_when_asked(faces, tmp_path):
    (tmp_path / "html.jpg").write_text("<html>not found</html>")
    (tmp_path / "good.jpg").write_bytes((faces / picture(listed_rows(faces)[0])).read_bytes())
    file = table_of(tmp_path / "t.csv", "html.jpg,5,p", "good.jpg,30,q").table
    data = read_data(AgeDataConfig(table=file, skip_bad=True), with_folds=False)
    assert data.manifest["path"].tolist() == ["good.jpg"]
    [(path, reason)] = data.report["bad_images"].items()
    assert path.endswith("html.jpg")
    assert "web page" in reason


def test_shared_people_are_refused_by_name_unless_allowed(faces, tmp_path):
    file = as_table(faces, tmp_path / "faces.csv")
    lines = file.read_text().splitlines()
    person = lines[1].split(",")[2]
    lines[-1] = ",".join([*lines[-1].split(",")[:2], person, *lines[-1].split(",")[3:]])
    file.write_text("\n".join(lines))
    options = {"table": str(file), "root": str(faces), "fold_column": "fold", **TABLE}
    with pytest.raises(DataError, match=f"subject {person} is in train and test"):
        make_age_splits(read_data(AgeDataConfig(**options)), AgeDataConfig(**options))
    allowed = AgeDataConfig(**options, allow_subject_overlap=True)
    assert len(make_age_splits(read_data(allowed), allowed)) == 5


def twins_in(faces: Path, folder: Path) -> AgeDataConfig:
    """Return data in which an image of fold 0 comes again in fold 1, under another name and person."""
    rows = [row for fold in ("0", "1") for row in [r for r in listed_rows(faces) if r["fold"] == fold][:3]]
    lines = []
    for number, row in enumerate(rows):
        source = rows[0] if number == 3 else row
        (folder / f"{number}.jpg").write_bytes((faces / picture(source)).read_bytes())
        lines.append(f"{number}.jpg,{5 if number % 2 else 30},p{number},{row['fold']}")
    config = table_of(folder / "t.csv", *lines, header="path,age,subject,fold")
    return AgeDataConfig(table=config.table, fold_column="fold")


def test_the_same_bytes_in_training_and_test_are_told_and_refused_when_asked(faces, tmp_path, capsys):
    config = twins_in(faces, tmp_path)
    data = read_data(config)
    splits = make_age_splits(data, config)
    check_contents(data, splits, config)
    assert "0.jpg = 3.jpg" in capsys.readouterr().out
    strict = AgeDataConfig(table=config.table, fold_column="fold", same_content="error")
    with pytest.raises(DataError, match=r"(?s)same bytes.*0\.jpg = 3\.jpg"):
        check_contents(data, splits, strict)


def test_faces_drawn_for_tests_hold_no_twins(faces, capsys):
    config = AgeDataConfig(root=str(faces))
    data = read_data(config)
    assert equal_contents(data.manifest, make_age_splits(data, config))[:3] == ([], [], [])


def test_the_cache_lies_where_it_is_named(monkeypatch, tmp_path):
    for name in ("CRL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("none") is None
    assert cache_folder("here") == Path("here")
    assert cache_folder("auto") == tmp_path / ".cache" / "crl-toolkit"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder("auto") == Path("/xdg/crl-toolkit")
    monkeypatch.setenv("CRL_CACHE", "/fast")
    assert cache_folder("auto") == Path("/fast/crl-toolkit")


def test_a_models_own_groups_are_taken_unless_others_are_asked_for(capsys):
    own = ("0-9", "10+")
    config = AgeDataConfig(table="faces.csv")
    assert with_groups_of(config, own).groups == "0-9,10+"
    assert "the model's own age groups are used, --data.groups 0-9,10+" in capsys.readouterr().out
    asked = AgeDataConfig(table="faces.csv", groups="0-9, 10+")
    assert with_groups_of(asked, own) is asked
    with pytest.raises(ModelFileError, match=r"--data\.groups 0-4,5\+: .*--data\.groups 0-9,10\+"):
        with_groups_of(AgeDataConfig(table="faces.csv", groups="0-4,5+"), own)
    adience = AgeDataConfig(root="adience")
    assert with_groups_of(adience, own) is adience

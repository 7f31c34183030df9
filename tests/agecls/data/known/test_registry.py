"""Published sets of faces: every irregular name, list and field, and the table that says the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.config import AgeDataConfig, AgeTableConfig
from agecls.data.known.csv_lists import FAIRFACE_GROUPS
from agecls.data.known.findings import Findings
from agecls.data.known.registry import SETS, known_set
from agecls.data.named import find_named
from agecls.data.read import read_data
from agecls.data.write_table import write_age_table
from agecls.synthetic.known import IRREGULAR, WRITERS, write_imdb_wiki, write_picture, write_utkface
from finetune.cli.console import quiet, reset
from finetune.errors import DataError, UsageError

GROUPS = "0-17,18-39,40+"


@pytest.fixture(autouse=True)
def _quiet():
    quiet()
    yield
    reset()


def _found(name: str, root: Path, **options: Any) -> Findings:
    WRITERS[name](root)
    return known_set(name).find(root, **options)


def _dropped(found: Findings) -> Mapping[str, int]:
    return {reason: len(names) for reason, names in found.dropped.items()}


def _column(found: Findings, name: str) -> list[str]:
    return [getattr(face, name) for face in sorted(found.faces, key=lambda face: face.source)]


@pytest.mark.parametrize("name", [name for name in SETS if name != "fairface"])
def test_a_table_reads_as_its_set_does(name: str, tmp_path: Path):
    root, out = tmp_path / "set", tmp_path / "faces.csv"
    WRITERS[name](root)
    config = AgeDataConfig(root=str(root), name=name, groups=GROUPS, crops=str(tmp_path / "crops"), n_folds=2)
    direct = read_data(config, with_folds=False)
    counts = write_age_table(name, AgeTableConfig(config, str(out)))
    subject = "subject" if SETS[name].people else "none"
    table = AgeDataConfig(root=counts["root"], table=str(out), groups=GROUPS, subject_column=subject)
    again = read_data(table, with_folds=False)
    assert counts["images"] == again.report["rows"] == direct.report["rows"]
    for key in ("images", "per_group", "subjects", "subjects_known", "in_gaps"):
        assert again.report[key] == direct.report[key], key
    assert again.manifest.fingerprint == direct.manifest.fingerprint
    assert any("terms of use" in notice for notice in direct.report["notices"])


def test_a_table_of_groups_reads_as_its_set_does(tmp_path: Path):
    WRITERS["fairface"](tmp_path / "set")
    config = AgeTableConfig(AgeDataConfig(root=str(tmp_path / "set")), str(tmp_path / "faces.csv"))
    assert write_age_table("fairface", config)["split"] == {"train": 9, "val": 2}
    columns: dict[str, Any] = {"group_column": "group", "groups": FAIRFACE_GROUPS, "subject_column": "none"}
    table = AgeDataConfig(root=str(tmp_path / "set"), table=str(tmp_path / "faces.csv"), **columns)
    direct = AgeDataConfig(root=str(tmp_path / "set"), name="fairface")
    found = [read_data(one, with_folds=False).manifest.fingerprint for one in (table, direct)]
    assert found[0] == found[1]


def test_groups_are_read_where_a_set_has_no_years(tmp_path: Path):
    WRITERS["fairface"](tmp_path)
    data = read_data(AgeDataConfig(root=str(tmp_path), name="FairFace"), with_folds=False)
    assert data.manifest.class_names == (
        *("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+"),
    )
    assert data.manifest.class_counts().tolist() == [2, 1, 1, 1, 1, 1, 1, 1, 2]
    assert not data.report["subjects_known"]
    found = known_set("fairface").find(tmp_path)
    assert (_column(found, "split").count("train"), _column(found, "split").count("val")) == (9, 2)


def test_four_names_of_utkface_are_refused_and_dropped_when_asked(tmp_path: Path):
    write_utkface(tmp_path, irregular=True)
    with pytest.raises(DataError, match=r"UTKFace: 4 of 12 names .* nothing is guessed") as refused:
        known_set("utkface").find(tmp_path)
    assert all(name in str(refused.value) for name in IRREGULAR)
    found = known_set("utkface").find(tmp_path, "drop")
    assert (len(found.faces), _dropped(found)) == (8, {"name or row that cannot be read": 4})
    assert _column(found, "age") == ["0", "17", "18", "31", "40", "52", "5", "70"]
    assert set(_column(found, "gender")) == {"m", "f"}
    assert {"White", "Black", "Asian", "Indian", "Other"} == set(_column(found, "race"))


def test_both_editions_of_utkface_in_one_folder_are_refused(tmp_path: Path):
    write_utkface(tmp_path)
    write_picture(tmp_path / "part1" / "0_0_0_20170112220000000.jpg", 1)
    with pytest.raises(DataError, match="1 photographs are there twice"):
        known_set("utkface").find(tmp_path)


def test_an_age_above_the_oldest_and_a_stranger_are_odd(tmp_path: Path):
    write_utkface(tmp_path)
    write_picture(tmp_path / "117_0_0_20170112220000000.jpg", 1)
    write_picture(tmp_path / "holiday.jpg", 2)
    with pytest.raises(DataError, match=r"2 of 10 names.*\n.*117_0_0.*above 116"):
        known_set("utkface").find(tmp_path)


@pytest.mark.parametrize(
    ("name", "bad"),
    [("agedb", "1_Jean_Luc_3_m.jpg"), ("fgnet", "0012A5.jpg"), ("agedb", "1_Jean_3_x.jpg")],
)
def test_names_with_another_pattern_are_refused(name: str, bad: str, tmp_path: Path):
    WRITERS[name](tmp_path)
    write_picture(tmp_path / bad, 99)
    with pytest.raises(DataError, match=bad):
        known_set(name).find(tmp_path)


def test_fgnet_takes_the_person_and_both_capitals(tmp_path: Path):
    found = _found("fgnet", tmp_path)
    assert len(found.faces) == 8
    assert sorted(set(_column(found, "subject"))) == ["001", "002", "003", "004"]
    assert _column(found, "age") == ["5", "0", "18", "17", "40", "31", "70", "52"]


def test_morph_keeps_the_zeros_of_an_id_and_tells_people_with_two_birthdays(tmp_path: Path):
    found = _found("morph", tmp_path)
    assert found.faces[0].subject == "000000"
    assert found.notices[0].startswith("1 of 4 people have more than one date of birth")
    assert len(found.notices) == 1


def test_imdb_wiki_computes_the_age_and_names_every_drop(tmp_path: Path):
    found = _found("imdb-wiki", tmp_path)
    assert sorted(_column(found, "age")) == ["19", "19", "20", "20"]
    assert set(_column(found, "subject")) == {"Fred Astaire", "Lauren Bacall"}
    assert _dropped(found) == {
        "no face found (face_score -inf)": 2,
        "face_score of 1 or less": 2,
        "a second face (second_face_score above 1)": 2,
        "age not between 0 and 100": 2,
    }
    assert any("a person is a name" in told for told in found.notices)


def test_one_list_of_imdb_wiki_takes_the_id_and_an_unknown_gender_stays_empty(tmp_path: Path):
    write_imdb_wiki(tmp_path, ["imdb"])
    found = known_set("imdb-wiki").find(tmp_path)
    assert [(face.subject, face.gender) for face in found.faces] == [("1", "m"), ("2", "")]


def test_cacd_goes_by_rank_finds_lost_accents_and_drops_wrong_ages(tmp_path: Path):
    found = _found("cacd", tmp_path)
    assert _column(found, "split") == ["val", "test", "train"]
    assert found.faces[1].path == "CACD2000/33_Ren\u00c3\u00a9e_Zellweger_0001.jpg"
    assert _dropped(found) == {"age is not the year less the year of birth": 1}
    assert any("1 files are found by their names but for accents" in told for told in found.notices)


def test_guesses_without_spread_are_told_and_parts_are_kept(tmp_path: Path):
    found = _found("clap2016", tmp_path)
    assert found.notices[0].startswith("1 faces have guesses without any spread")
    assert _column(found, "split").count("val") == 2
    assert {face.age for face in found.faces} == {face.apparent_age for face in found.faces}


def test_appa_real_takes_the_cut_out_faces_and_both_ages(tmp_path: Path):
    found = _found("appa-real", tmp_path)
    assert all(face.path.endswith("_face.jpg") for face in found.faces)
    assert [(face.age, face.apparent_age) for face in found.faces][1] == ("5", "5.5")


def test_lagenda_drops_what_is_unknown_and_cuts_two_faces_out_of_one_image(tmp_path: Path):
    found = _found("lagenda", tmp_path)
    assert _dropped(found) == {"age not known (-1)": 1, "face not marked (-1)": 1}
    config = AgeDataConfig(root=str(tmp_path), name="lagenda", crops=str(tmp_path / "crops"))
    named = find_named(config, "error")
    assert len({face.path for face in named.faces}) == 2
    assert all((named.root / face.path).is_file() for face in named.faces)


def test_imdb_clean_tells_which_parts_share_people(tmp_path: Path):
    found = _found("imdb-clean", tmp_path)
    assert found.notices == ["the set's own train and val parts share 1 people"]
    assert _column(found, "subject").count("0000002") == 2


def test_columns_that_a_list_lacks_are_named(tmp_path: Path):
    WRITERS["fairface"](tmp_path)
    (tmp_path / "fairface_label_val.csv").write_text("file,age\nval/1.jpg,0-2\n")
    with pytest.raises(DataError, match="missing columns: gender, race"):
        known_set("fairface").find(tmp_path)


def test_a_set_that_is_not_there_or_not_known_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"hold none of its lists: morph_2008"):
        known_set("morph").find(tmp_path)
    with pytest.raises(UsageError, match="choose one of utkface, agedb"):
        known_set("faces")


def test_the_table_counts_drops_and_equal_images(tmp_path: Path):
    WRITERS["utkface"](tmp_path / "set")
    twin = tmp_path / "set" / "UTKFace" / "33_0_0_20180112220000000.jpg"
    twin.write_bytes((tmp_path / "set" / "UTKFace" / "0_0_0_20170112220000000.jpg.chip.jpg").read_bytes())
    config = AgeTableConfig(AgeDataConfig(root=str(tmp_path / "set")), str(tmp_path / "faces.csv"))
    counts = write_age_table("utkface", config)
    assert counts["same_content_labels"]["ages"] == 1
    assert (counts["under_18"], counts["people"], counts["oldest"]) == (3, None, 70)
    with pytest.raises(UsageError, match="is there already"):
        write_age_table("utkface", config)


@pytest.mark.real_data
def test_the_real_fgnet_counts_as_published(real_data: Path):
    found = known_set("fgnet").find(real_data / "fgnet")
    ages = np.array([int(face.age) for face in found.faces])
    assert (len(ages), len({face.subject for face in found.faces})) == (1002, 82)
    assert (ages.min(), ages.max(), round(float(ages.mean()), 1), int((ages < 18).sum())) == (
        0,
        69,
        15.8,
        640,
    )

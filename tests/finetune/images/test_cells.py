"""Cells of tables: absent values, ids in several spellings, whole numbers, paths in another Unicode form."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from finetune.images.cells import (
    SpelledPaths,
    bare,
    identity_key,
    is_absent,
    is_broken,
    near_notice,
    one_spelling,
    real_number,
    same_identities,
    spelling_notice,
    whole_number,
)

ACCENT = "m\u00e9sange"


@pytest.mark.parametrize("cell", ["", " ", "nan", "NaN", "None", "NA", "N/A", "<NA>", "null", "NULL", "NaT"])
def test_what_programs_write_for_an_absent_value_is_absent(cell: str):
    assert is_absent(cell)
    assert not is_absent(f"{cell}x.jpg")


@pytest.mark.parametrize(
    "spellings",
    [
        ("7", "7.0", "007", "7.", "+7", "\uff17", "7.0E+00"),
        ("1200", "1.2E+03", "1200.00"),
        ("0", "000", "0.0", "-0"),
        ("-7", "-7.0", "-007"),
        ("Anna Li", "Anna\u00a0Li", "Anna\u202f Li", "Anna\u3000Li", "Anna Li\u200b"),
        (ACCENT, unicodedata.normalize("NFD", ACCENT)),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469 "),
    ],
)
def test_spellings_of_one_subject_have_one_key(spellings: tuple[str, ...]):
    assert len(set(map(identity_key, spellings))) == 1


def test_other_subjects_keep_keys_of_their_own():
    names = ["7", "70", "7.5", "-7", "s7", "7a", "1e5", "100000", "0x7", "Li", "LI", "9" * 400]
    assert len(set(map(identity_key, names))) == len(names)


def test_the_first_spelling_stays_and_ids_of_one_spelling_do_not_change():
    assert same_identities(["007", "8", "7.0"]) == (["007", "8", "007"], {"007": ["7.0"]})
    assert same_identities(["007", "8.0"]) == (["007", "8.0"], {})
    assert spelling_notice("subjects", {"007": ["7.0"]}) == [
        "1 subjects are written in several ways and count as one each: 007 = 7.0"
    ]


def test_whole_numbers_fit_64_bits():
    assert whole_number("9" * 18) == 10**18 - 1
    assert [whole_number(cell) for cell in ("9" * 19, "1e999999999", "1.5", "-1", "")] == [None] * 5


def test_control_characters_and_bytes_that_are_no_text_are_broken_and_blanks_are_not():
    assert not any(map(is_broken, ("a\u202fb", "a\u00a0b", "a\u3000b", "\U0001f468\u200d\U0001f469")))
    assert all(map(is_broken, ("a\tb", "a\nb", "a\x1bb", "a\x85b", "\udce9")))


def test_a_file_is_found_in_another_unicode_form_folder_by_folder(tmp_path: Path):
    folder = unicodedata.normalize("NFD", ACCENT)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / f"{ACCENT}.jpg").write_bytes(b"x")
    spelled = SpelledPaths(tmp_path)
    assert spelled.find(f"{ACCENT}/{folder}.jpg") == f"{folder}/{ACCENT}.jpg"
    assert spelled.find(f"{ACCENT}/other\u00e9.jpg") == f"{ACCENT}/other\u00e9.jpg"


def test_what_holds_only_signs_of_no_width_is_absent_and_what_joins_an_emoji_stays():
    assert is_absent("\u200b")
    assert is_absent("\ufeffNaN\u00a0")
    family = "\U0001f468\u200d\U0001f469"
    assert bare(f"\u3000{family}\u200b") == family
    assert one_spelling("owl\u200b") == one_spelling("\u3000owl") == "owl"


@pytest.mark.parametrize(
    "spellings",
    [
        ("1000", "1.0e3", "1.E3", "\u0661\u0660\u0660\u0660"),
        ("7", "7.0e0", "\u096d", "\u0667"),
    ],
)
def test_a_power_with_a_point_and_the_digits_of_every_script_are_numbers(spellings: tuple[str, ...]):
    assert len(set(map(identity_key, spellings))) == 1


def test_ids_that_are_almost_one_count_as_different_and_are_told():
    names = ["Anna", "b", "anna", "1000", "1e3", "S07", "S7", "x.05", "x.5", "O'Neil", "O\u2019Neil", "Anna"]
    assert near_notice("subjects", names) == [
        "subjects are told apart by capitals, zeros or the like alone, and count as different: "
        "Anna / anna, 1000 / 1e3, S07 / S7, O'Neil / O\u2019Neil"
    ]
    assert near_notice("subjects", ["Anna", "Hanna", "7.5", "75", "a-b", "ab", "-7"]) == []
    thousands = [
        "1,000",
        "1000",
        "lot 2 500 000",
        "lot 2500000",
        "1,00",
        "100",
        "1,2,3",
        "123",
        "7,1000",
        "71000",
    ]
    assert near_notice("classes", thousands) == [
        "classes are told apart by capitals, zeros or the like alone, and count as different: "
        "1,000 / 1000, lot 2 500 000 / lot 2500000"
    ]


def test_letters_of_other_scripts_that_look_alike_are_told_with_the_letter():
    names = ["\u0410lice", "Alice", "zo\u0451", "zo\u00eb", "\u041c\u0410\u039a", "mak", "\u0416ora", "Zora"]
    assert near_notice("subjects", names) == [
        "subjects are told apart by letters of different scripts that look alike, and count as different: "
        "\u0410lice (with cyrillic capital letter a) / Alice, "
        "zo\u0451 (with cyrillic small letter ie) / zo\u00eb, "
        "\u041c\u0410\u039a (with cyrillic capital letter em) / mak"
    ]
    assert near_notice("subjects", ["\u0412\u0435\u0440\u0430", "\u0432\u0435\u0440\u0430"])[0].startswith(
        "subjects are told apart by capitals"
    )


@pytest.mark.parametrize("cell", ["2_8", "1_0.5", "nan", "inf", "0x1A", "1,5", "", "1e999", "--1"])
def test_what_python_alone_reads_as_a_number_is_none(cell: str):
    assert real_number(cell) is None

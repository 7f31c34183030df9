"""Words for a choice, and keys of an earlier release, on command lines and in files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

from finetune.cli.options import parse_options
from finetune.cli.words import WORD, WithOldKeys, Worded, split_word
from finetune.errors import UsageError


@dataclass(frozen=True)
class Sauce(Worded):
    """A choice.

    Args:
        name: which.
        options: its own.
        hot: more.
    """

    OLD_KEYS = MappingProxyType({"salt": "options.salt", "spicy": "hot"})

    name: str = "plain"
    options: dict[str, int | float | bool | str] = field(default_factory=dict)
    hot: bool = False

    @staticmethod
    def names() -> tuple[str, ...]:
        return ("plain", "soy")


@dataclass(frozen=True)
class Meal(WithOldKeys):
    """A meal.

    Args:
        sauce: a choice.
        side: a word.
        guests: how many.
    """

    OLD_KEYS = MappingProxyType({"people": "guests"})

    sauce: Sauce = field(default_factory=Sauce)
    side: str = field(default="rice", metadata={WORD: True})
    guests: int = 1


def meal(*words: str | Path) -> Meal:
    return parse_options(Meal, [str(word) for word in words], prog="cook", about="")[0]


def written(folder: Path, text: str, name: str = "meal.yaml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a", ("a", {})),
        (" a:b=1 ", ("a", {"b": 1})),
        ("a:b=1.5:c=true:d=x:e=-1e-3", ("a", {"b": 1.5, "c": True, "d": "x", "e": -0.001})),
    ],
)
def test_a_word_is_a_name_and_options_by_kind(word, expected):
    assert split_word(word, "sauce") == expected


@pytest.mark.parametrize("word", ["a:b", "a:=1", "a:b=", "a::b=1"])
def test_a_word_that_cannot_be_read_is_refused_with_its_part(word):
    with pytest.raises(UsageError, match=r"sauce: .*must read NAME or NAME:OPTION=VALUE"):
        split_word(word, "sauce")


def test_an_option_twice_in_a_word_is_refused():
    with pytest.raises(UsageError, match="sauce: a:b=1:b=2 gives an option twice"):
        split_word("a:b=1:b=2", "sauce")


def test_a_section_may_be_given_by_its_word_on_the_line_and_in_a_file(tmp_path):
    assert meal("--sauce", "soy:salt=2").sauce == Sauce("soy:salt=2")
    assert meal("--sauce=soy", "--sauce.options.salt", "2").sauce == Sauce("soy", {"salt": 2})
    file = written(tmp_path, "sauce: soy:salt=2\n")
    assert meal("--config", file).sauce == Sauce("soy:salt=2")


def test_old_keys_are_read_with_a_note_and_null_is_left_out(tmp_path, capsys):
    file = written(tmp_path, "sauce: {name: soy, salt: 1e-3, spicy: null}\npeople: 3\n")
    assert meal("--config", file) == Meal(Sauce("soy", {"salt": 0.001}), guests=3)
    said = capsys.readouterr().out
    assert f"{file} has the old keys people, sauce.salt, sauce.spicy, read for one more release" in said
    assert "write guests, sauce.options.salt" in said
    assert meal("--sauce.salt", "2", "--people", "null", "--sauce.spicy=true").sauce == Sauce(
        "plain", {"salt": 2}, hot=True
    )
    said = capsys.readouterr().out
    assert "--sauce.salt is an old name, read for one more release: write --sauce.options.salt" in said
    assert meal("--config", written(tmp_path, "guests: 2\n")) == Meal(guests=2)
    assert capsys.readouterr().out == ""


def test_an_old_key_beside_todays_with_another_value_is_refused(tmp_path):
    file = written(tmp_path, "sauce: {salt: 1, options: {salt: 2}}\n")
    with pytest.raises(UsageError, match=r"sauce.options.salt is given twice.*2 and 1"):
        meal("--config", file)


def test_a_misspelt_old_key_is_answered_with_todays():
    with pytest.raises(
        UsageError, match=r"unknown option --sauce.slat \(did you mean sauce.options.salt\?\)"
    ):
        meal("--sauce.slat", "1")


def test_an_unknown_key_of_a_file_is_still_refused(tmp_path):
    with pytest.raises(UsageError, match=r"unknown key sauce.sweet"):
        meal("--config", written(tmp_path, "sauce: {sweet: 1}\n"))


def test_options_of_a_file_belong_to_the_choice_of_that_file(tmp_path, capsys):
    first = written(tmp_path, "sauce: {name: soy, options: {salt: 2}, hot: true}\n", "a.yaml")
    assert meal("--config", first, "--sauce.name", "SOY").sauce.options == {"salt": 2}
    assert "left out" not in capsys.readouterr().out
    assert meal("--config", first, "--sauce.name", "mint").sauce == Sauce("mint", hot=True)
    assert f"sauce.options of {first} are left out, for mint is chosen" in capsys.readouterr().out
    assert meal("--config", first, "--sauce", "soy").sauce == Sauce("soy", hot=True)
    assert meal("--config", first, "--sauce.name", "soy:sweet=1").sauce.options == {}
    second = written(tmp_path, "sauce: {name: mint}\n", "b.yaml")
    assert meal("--config", first, "--config", second).sauce == Sauce("mint", hot=True)
    bare = written(tmp_path, "sauce: {options: {salt: 2}}\n", "c.yaml")
    assert meal("--config", bare, "--sauce.name", "mint").sauce == Sauce("mint", {"salt": 2})


def test_a_text_that_is_a_word_may_be_given_in_parts(tmp_path):
    assert meal("--side.name", "peas", "--side.options.butter", "true").side == "peas:butter=true"
    assert meal("--side", "peas:butter=true", "--side.options.salt=2").side == "peas:butter=true:salt=2"
    assert meal("--side.options.salt=2").side == "rice:salt=2"
    file = written(tmp_path, "side: {name: peas, options: {butter: 1.5}}\n")
    assert meal("--config", file).side == "peas:butter=1.5"
    assert meal("--config", file, "--side.options.salt=2").side == "peas:butter=1.5:salt=2"


def test_an_error_names_the_file_though_it_was_rewritten(tmp_path):
    file = written(tmp_path, "people: many\nsauce: soy\n")
    with pytest.raises(UsageError, match=rf"--guests \(in {file}\) must be int, got many"):
        meal("--config", file)


def test_a_word_leaves_out_a_files_options_under_any_key_and_says_so(tmp_path, capsys):
    file = written(tmp_path, "sauce: {salt: 2}\n")
    assert meal("--config", file, "--sauce", "plain").sauce == Sauce()
    assert f"sauce.options of {file} are left out, for plain is chosen" in capsys.readouterr().out


def test_an_old_key_beside_empty_options_is_read(tmp_path):
    file = written(tmp_path, "sauce:\n  salt: 2\n  options:\n")
    assert meal("--config", file).sauce.options == {"salt": 2}


@pytest.mark.parametrize("word", ["soy", "SOY", "soy:salt=2"])
def test_a_name_is_a_name_though_a_file_is_called_so(tmp_path, monkeypatch, word):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "not an option: 1\n", word)
    assert meal("--sauce", word).sauce == Sauce(word)
    assert meal(f"--sauce.name={word}").sauce == Sauce(word)


def test_a_file_of_another_name_is_a_sections_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "{name: soy, hot: true}\n", "mine")
    assert meal("--sauce", "mine").sauce == Sauce("soy", hot=True)


def test_an_option_of_a_files_word_is_overridden(tmp_path):
    file = written(tmp_path, "side: bread:butter=1:salt=2\n")
    assert meal("--config", file, "--side.options.salt", "3").side == "bread:butter=1:salt=3"

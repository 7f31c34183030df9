"""A choice and its options as one word, crl:alpha=1:beta=0.5, and keys of an earlier release, wherever given.

A configuration says which of its parts may be given so: a section by the base class `Worded`, an option that
is text by the metadata `WORD`. Command lines and files are rewritten before they are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType
from typing import Any, get_type_hints

from finetune.errors import UsageError
from finetune.runs.files import is_file
from finetune.runs.former_losses import FORMER, as_meant, is_stored, word_in_full

WORD = "word"  # field metadata: this text is a word, and may be given as NAME and OPTION too
Value = int | float | bool | str


class WithOldKeys:
    """A configuration some of whose keys had other names; `OLD_KEYS` maps them to those of today."""

    # Not annotated: whoever reads the types of a subclass would need the names of the annotation there.
    OLD_KEYS = MappingProxyType[str, str]({})


class Choice(WithOldKeys):
    """A section with `name` and `options`: `--head dcl` gives its name; another name drops the options."""

    @staticmethod
    def names() -> Iterable[str]:
        """Return the names there are; each is a name also where a file is called so."""
        return ()


class Worded(Choice):
    """A choice whose name and options one word may give: `--loss crl:alpha=1`."""


def split_word(word: str, key: str) -> tuple[str, dict[str, Value]]:
    """Return the name and the options of NAME or NAME:OPTION=VALUE[:OPTION=VALUE]; errors begin with `key`.

    >>> split_word("crl:alpha=1:beta=0.5", "losses")
    ('crl', {'alpha': 1, 'beta': 0.5})
    """
    name, *parts = word.strip().split(":")
    options = dict(_option(word, part, key) for part in parts)
    if len(options) < len(parts):
        raise UsageError(f"{key}: {word} gives an option twice")
    return name, options


def value_text(value: object) -> str:
    """Return a value as short as a word can hold it.

    >>> value_text(1.0), value_text(0.25), value_text(True)
    ('1', '0.25', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).removesuffix(".0") if isinstance(value, int | float) else str(value)


def _option(word: str, part: str, key: str) -> tuple[str, Value]:
    name, equals, text = part.partition("=")
    if not (name and equals and text):
        raise UsageError(
            f"{key}: {word!r} must read NAME or NAME:OPTION=VALUE:OPTION=VALUE, got {part!r} in it"
        )
    if text.lower() in ("true", "false"):
        return name, text.lower() == "true"
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        if not math.isfinite(value):
            raise UsageError(f"{key}: {name} of {word} must be a finite number, got {text}")
        return name, value
    return name, text


@dataclass
class Given:
    """What was given: the command line, with each option and its value as one word, and the files' contents.

    `files` holds (name, content) in the order they were given; `notes` what is said of what was rewritten.
    """

    argv: list[str]
    files: list[tuple[str, dict[str, Any]]]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._read = [_as_json(content) for _, content in self.files]

    def begin_with(self, content: Mapping[str, Any]) -> None:
        """Put keys and values before all files, as another file's."""
        self.argv.insert(0, "--config=")
        self.files.insert(0, ("config", deepcopy(dict(content))))
        self._read.insert(0, "")

    def words(self) -> list[str]:
        """Return the line with what a rewritten file says now in the place of its name."""
        pairs = iter(zip(self._read, (_as_json(content) for _, content in self.files), strict=True))
        words = []
        for word in self.argv:
            if word.startswith("--config="):
                former, text = next(pairs)
                word = word if text == former else f"--config={text}"
            words.append(word)
        return words


def _as_json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, default=str)


def spoken_options(config_type: type) -> dict[str, Any]:
    """Return the options that the command line takes beside a configuration's own, with their kinds.

    >>> @dataclass
    ... class Run(WithOldKeys):
    ...     OLD_KEYS = MappingProxyType({"rate": "lr"})
    ...     loss: str = field(default="cel", metadata={WORD: True})
    >>> list(spoken_options(Run))
    ['rate', 'loss.name', 'loss.options']
    """
    spoken: dict[str, Any] = dict.fromkeys(old_keys(config_type), str)
    for leaf in _word_leaves(config_type):
        spoken |= {f"{leaf}.name": str, f"{leaf}.options": dict[str, Value]}
    return spoken | dict.fromkeys(_sections(config_type), str)


def rewrite(given: Given, config_type: type) -> None:
    """Bring everything that was given to the form that the configuration has today."""
    _tell_former_losses(given)
    for leaf, default in _word_leaves(config_type).items():
        _join_words(given, leaf, default)
    for section in _sections(config_type):
        _name_sections(given, section)
    _rename(given, old_keys(config_type))
    for section, choice in _sections(config_type).items():
        _split_words(given, section, choice)
        _leave_out_options(given, section)


def _tell_former_losses(given: Given) -> None:
    """Give the losses in files of run folders what they leave out and meant at the time, and say so."""
    for position, (name, content) in enumerate(given.files):
        meant = as_meant(content) if is_stored(content) else content
        if meant != content:
            given.files[position] = (name, meant)
            losses = ", ".join(word_in_full(loss, FORMER) for loss in FORMER)
            given.notes.append(f"note: {name} is of a time when {', '.join(FORMER)} meant {losses}: read so")


def _own_hints(config_type: type) -> dict[str, Any]:
    hints = get_type_hints(config_type)
    return {item.name: hints[item.name] for item in fields(config_type)}


def _sections(config_type: type) -> dict[str, type[Choice]]:
    hints = _own_hints(config_type)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, Choice)}


def _word_leaves(config_type: type) -> dict[str, str]:
    return {item.name: str(item.default) for item in fields(config_type) if WORD in item.metadata}


def old_keys(config_type: type) -> dict[str, str]:
    """Return the dotted keys of an earlier release with those of today."""
    own = dict(config_type.OLD_KEYS) if issubclass(config_type, WithOldKeys) else {}
    for name, hint in _own_hints(config_type).items():
        if is_dataclass(hint) and isinstance(hint, type) and issubclass(hint, WithOldKeys):
            own |= {f"{name}.{old}": f"{name}.{new}" for old, new in hint.OLD_KEYS.items()}
    return own


def _name_sections(given: Given, section: str) -> None:
    """Let a file's `loss: WORD` be the section's name."""
    for _, content in given.files:
        if isinstance(content.get(section), str):
            content[section] = {"name": content[section]}


def _split_words(given: Given, section: str, choice: type[Choice]) -> None:
    """Let `--loss WORD` be the section's name; the word says all of its options, a file's are left out."""
    for position, word in enumerate(given.argv):
        option, equals, value = word.partition("=")
        if option == f"--{section}" and equals and not value.startswith("{") and not _is_file(value, choice):
            given.argv[position] = f"--{section}.name={value}"
            for name, content in given.files:
                if _pop(content, f"{section}.options")[0]:
                    given.notes.append(_left_out(section, name, value))


def _is_file(text: str, choice: type[Choice]) -> bool:
    """Return whether a section's text names a file: one that is there, and not called as a choice is."""
    if not is_file(text):
        return False
    return text.partition(":")[0].lower() not in {name.lower() for name in choice.names()}


def _rename(given: Given, keys: Mapping[str, str]) -> None:
    """Move values from their old keys to today's; null, which stood for the default, is left out."""
    for name, content in given.files:
        found = {old: _pop(content, old) for old in keys}
        for old, (value, _) in found.items():
            if value is not None:
                _put(content, keys[old], value)
        stood = [old for old, (_, stands) in found.items() if stands]
        written = [keys[old] for old in stood if found[old][0] is not None]
        if stood:
            given.notes.append(_renamed(f"{name} has the old keys {', '.join(stood)}", written))
    for position, word in enumerate(given.argv):
        option, equals, value = word.partition("=")
        new = keys.get(option.removeprefix("--"), "") if option.startswith("--") else ""
        if new:
            given.notes.append(_renamed(f"{option} is an old name", [f"--{new}"]))
            given.argv[position] = "" if value in ("null", "None") else f"--{new}{equals}{value}"
    given.argv = [word for word in given.argv if word]


def _renamed(told: str, written: Sequence[str]) -> str:
    return f"note: {told}, read for one more release: write {', '.join(written) or 'none of them'}"


def _leave_out_options(given: Given, section: str) -> None:
    """Leave out the options of a file whose choice another one replaces: they are the replaced one's."""
    chosen = _last(given.argv, f"--{section}.name=")
    sources = [(name, _section(content, section)) for name, content in given.files]
    later = chosen
    for name, own in reversed(sources):
        former = own.get("name")
        replaced = later is not None and former is not None and _differ(str(former), later)
        if (replaced or (later is not None and ":" in later)) and own.pop("options", None):
            given.notes.append(_left_out(section, name, later))
        later = former if later is None and former is not None else later


def _left_out(section: str, name: str, chosen: str | None) -> str:
    return f"notice: {section}.options of {name} are left out, for {chosen} is chosen"


def _differ(former: str, later: str) -> bool:
    return former.partition(":")[0].lower() != later.partition(":")[0].lower()


def _join_words(given: Given, leaf: str, default: str) -> None:
    """Let a name and options, given apart, be the one word that the configuration holds."""
    for _, content in given.files:
        if isinstance(content.get(leaf), dict) and content[leaf].keys() <= {"name", "options"}:
            options = content[leaf].get("options") or {}
            content[leaf] = _word(content[leaf].get("name", default), options.items())
        default = content[leaf] if isinstance(content.get(leaf), str) else default
    names, start = (f"--{leaf}=", f"--{leaf}.name="), f"--{leaf}.options."
    apart = [word for word in given.argv if word.startswith(start)]
    named = [word for word in given.argv if word.startswith(names)]
    if apart or any(word.startswith(names[1]) for word in named):
        parts = [word.removeprefix(start).partition("=") for word in apart if "=" in word]
        pairs = [(key, text) for key, _, text in parts]
        given.argv = [word for word in given.argv if word not in (*apart, *named)]
        if named:
            whole = _word(named[-1].partition("=")[2], pairs)
        else:  # a file's word, some of whose options are overridden
            name, own = split_word(default, leaf)
            whole = _word(name, {**own, **dict(pairs)}.items())
        given.argv.append(f"--{leaf}={whole}")


def _word(name: str, options: Any) -> str:
    return ":".join([str(name), *(f"{key}={value_text(value)}" for key, value in options)])


def _last(argv: Sequence[str], start: str) -> str | None:
    found = [word.removeprefix(start) for word in argv if word.startswith(start)]
    return found[-1] if found else None


def _section(content: dict[str, Any], name: str) -> dict[str, Any]:
    section = content.get(name)
    return section if isinstance(section, dict) else {}


def _pop(content: dict[str, Any], key: str) -> tuple[Any, bool]:
    """Take a dotted key out of nested mappings; return its value, and whether it stood there."""
    parent, _, name = key.rpartition(".")
    place = _section(content, parent) if parent else content
    return (place.pop(name), True) if name in place else (None, False)


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, unless today's key stands there already: then both are refused."""
    *parents, name = key.split(".")
    for parent in parents:
        if content.get(parent) is None:
            content[parent] = {}
        content = content[parent]
    if name in content and content[name] != value:
        raise UsageError(f"{key} is given twice, under its old key as well: {content[name]} and {value}")
    content[name] = value

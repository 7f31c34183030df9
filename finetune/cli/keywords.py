"""Keyword arguments in Python -> the same configuration objects, by the same rules, as a command line gives.

The keywords become the words of a command line. So Python has no grammar of its own, every check holds, and a
record names the command that does the same.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar, get_type_hints

from finetune.cli.command import Command, called_as
from finetune.cli.environment import refused
from finetune.cli.option_words import suggestion
from finetune.cli.options import parse_options, refuse_faults, unknown_keys
from finetune.cli.words import Given, Worded, rewrite
from finetune.errors import CrlError, ResourceError, UsageError
from finetune.runs.files import to_plain
from finetune.seeding import torch_left_as_it_was

T = TypeVar("T")
Place: TypeAlias = "str | PathLike[str]"
Section = Mapping[str, Any]  # keys and values of one section: data=dict(root="faces")
UNKNOWN = "unknown"  # how a public function calls the keywords that it does not have

# Keywords that stand for a key of a section, so that short calls stay short.
SHORTCUTS = {
    "root": "data.root",
    "table": "data.table",
    "backbone": "model.backbone",
    "image_size": "model.image_size",
    "epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "lr": "train.lr",
    "seed": "train.seed",
    "run_dir": "run.dir",
}


@dataclass(frozen=True)
class Call(Generic[T]):
    """A call of a public function: the configuration, and the command line that does the same."""

    config: T
    line: str

    @contextmanager
    def running(self) -> Iterator[None]:
        """Record the command line as what runs, and turn what the system refuses into a ResourceError."""
        try:
            with called_as(self.line):
                yield
        except OSError as error:
            raise ResourceError(refused(error)) from error


@dataclass(frozen=True)
class Door:
    """Commands as functions: each takes the arguments of a public function by name.

    Args:
        commands: by name.
        prog: the words before a command's name: "crl age".
    """

    commands: Mapping[str, Command]
    prog: str

    def call(self, name: str, given: Mapping[str, Any], positionals: Sequence[str] = ()) -> Call[Any]:
        """Return the configuration of a command, as `read_keywords`."""
        return read_keywords(self.commands[name], f"{self.prog} {name}", given, positionals)

    def run(self, name: str, call: Call[Any]) -> dict[str, Any]:
        """Run a command that takes no positional words; return what it returns under --json."""
        with call.running(), torch_left_as_it_was():
            return self.commands[name].run(call.config, {})


def read_keywords(
    command: Command, prog: str, given: Mapping[str, Any], positionals: Sequence[str] = ()
) -> Call[Any]:
    """Return the configuration that the keywords of a call describe.

    Args:
        command: whose options they are.
        prog: the command's words: "crl age train".
        given: the function's arguments by name. None stands for "not given". `config` is a configuration, the
            name of a recipe, or a YAML file, and the others override it. A section is its dataclass (which
            says every key of it), keys and values, or its name alone. `unknown` holds every other keyword.
        positionals: the command's positional words, for its line.

    Raises:
        UsageError: for an unknown keyword or key, with the nearest known one, for a value of another kind,
            and for a key that is given twice.
        CrlError: of the first kind that the command's `faults` find, such as DataError for a folder that is
            not there. Nothing heavy is imported before.
    """
    given = dict(given)
    _refuse_unknown(given.pop(UNKNOWN, {}), list(given))
    config = given.pop("config", None)
    content = _sections({name: value for name, value in given.items() if value is not None}, command)
    kind = command.config_type
    line = partial(_line, prog, positionals)
    with _in_python():
        if isinstance(config, kind) and not content:
            refuse_faults(
                command.faults, kind, {part.name: getattr(config, part.name) for part in fields(kind)}
            )
            return Call(config, line(_told(_words(_as_dict(config), kind), kind)))
        start, base = [], None
        if is_dataclass(config) and issubclass(kind, type(config)):
            base = to_plain(_as_dict(config))
        elif isinstance(config, str | PathLike):
            start = [f"--config={fspath(config)}"]
        elif config is not None:
            wish = f"{kind.__name__}, the name of a recipe or a YAML file"
            raise UsageError(f"config must be {wish}, got {type(config).__name__}")
        _refuse_unknown_keys(content, kind)
        words = [*start, *_words(content, kind)]
        found, _, _ = parse_options(
            kind,
            words,
            prog=prog,
            about="",
            recipes=command.recipes,
            aside=command.aside,
            base=base,
            faults=command.faults,
        )
    if base is not None:  # no file holds it: the line says all of it
        words = _words(_as_dict(found), kind)
    return Call(found, line(words if start else _told(words, kind)))


@contextmanager
def _in_python() -> Iterator[None]:
    """Let errors that name options name keywords: train.lr, not --train.lr."""
    try:
        yield
    except CrlError as error:
        error.args = (re.sub(r"(?<![\w/.-])--(?=[a-z])", "", str(error)),)
        raise


def _line(prog: str, positionals: Sequence[str], words: Sequence[str]) -> str:
    return shlex.join([*prog.split(), *positionals, *words])


def _told(words: Sequence[str], config_type: Any) -> list[str]:
    """Return the words without those that say what holds anyway."""
    defaults = set(_words(_as_dict(config_type()), config_type))
    return [word for word in words if word not in defaults]


def _refuse_unknown(unknown: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown:
        names = [name for name in known if name not in (UNKNOWN, "self")]
        lines = [f"unknown keyword {name}{suggestion(name, names)}" for name in unknown]
        raise UsageError("\n".join(lines))


def _sections(given: Mapping[str, Any], command: Command) -> dict[str, Any]:
    """Return the keywords as nested keys and values, shortcuts in their sections."""
    hints = get_type_hints(command.config_type)
    content = {
        name: _section(name, value, hints[name])
        for name, value in given.items()
        if name not in SHORTCUTS or name in hints
    }
    for name, value in given.items():
        if name in SHORTCUTS and name not in hints:
            section, _, key = SHORTCUTS[name].partition(".")
            own = content.setdefault(section, {})
            if not isinstance(own, dict) or key in own:
                raise UsageError(f"{name} and {section} both give {section}.{key}: leave one out")
            own[key] = value
    return content


def _section(name: str, value: Any, hint: Any) -> Any:
    """Return a section's value as keys and values; what is no section stays as it is."""
    if not is_dataclass(hint) or not isinstance(hint, type):
        return dict(value) if isinstance(value, Mapping) else value
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value) and issubclass(hint, type(value)):
        return _as_dict(value)
    has_name = "name" in {item.name for item in fields(hint)}
    if has_name and isinstance(value, str):
        return value if issubclass(hint, Worded) else {"name": value}
    wish = f"{hint.__name__} or keys and values{', or a name' if has_name else ''}"
    raise UsageError(f"{name} must be {wish}, got {type(value).__name__} {str(value)[:80]!r}")


def _as_dict(config: Any) -> dict[str, Any]:
    found = {item.name: getattr(config, item.name) for item in fields(config)}
    return {name: _as_dict(value) if is_dataclass(value) else value for name, value in found.items()}


def _refuse_unknown_keys(content: Mapping[str, Any], config_type: type) -> None:
    today = deepcopy(dict(content))
    rewrite(Given([], [("the keywords", today)]), config_type)
    broken = list(unknown_keys(today, config_type, ""))
    if broken:
        raise UsageError("\n".join(broken))


def _words(content: Mapping[str, Any], config_type: Any) -> list[str]:
    """Return nested keys and values as the words of a command line."""
    hints = get_type_hints(config_type)
    words: list[str] = []
    for name, value in content.items():
        if isinstance(value, dict) and is_dataclass(hints.get(name)):
            words += [f"--{name}.{key}={_text(own)}" for key, own in value.items()]
        elif isinstance(value, dict):  # a word, given as its name and options
            words += [f"--{name}.name={value['name']}"] if "name" in value else []
            words += [f"--{name}.options.{key}={_text(own)}" for key, own in value.get("options", {}).items()]
        else:
            words.append(f"--{name}={_text(value)}")
    return words


def _text(value: Any) -> str:
    """Return a value as a command line spells it.

    >>> _text(None), _text(True), _text(0.1), _text("flip"), _text((80, 100)), _text({"dim": 3})
    ('null', 'true', '0.1', 'flip', '[80, 100]', '{"dim": 3}')
    """
    if isinstance(value, str | Path):
        return str(value)
    try:
        return json.dumps(to_plain(value))
    except TypeError:
        kind = type(value).__name__
        raise UsageError(
            f"an option is a number, text, a list or keys and values, got {kind} {value!r}"
        ) from None

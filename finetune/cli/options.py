"""Command lines and YAML files -> configuration objects; mistakes are named with the nearest valid name."""

from __future__ import annotations

from argparse import SUPPRESS
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, get_args, get_type_hints

from finetune.cli.config_files import check_values, read_config_files, values_of
from finetune.cli.console import say
from finetune.cli.option_words import explain_refusal, not_finite, suggestion
from finetune.cli.words import Given, Worded, old_keys, rewrite, spoken_options
from finetune.errors import CrlError, UsageError, joined
from finetune.runs.files import is_file
from finetune.runs.parse import ambiguous_number

T = TypeVar("T")
# Field metadata of a part: (option's name, what its docstring says) -> its help; the part's own title for "".
REWORDED_HELP = "reworded"
GENERATED_HELP = "help"  # field metadata: a function whose text is added to what the docstring says
WORD_HELP = "its name, or a word with its options too (NAME:OPTION=VALUE:OPTION=VALUE), or a YAML file."


@dataclass(frozen=True)
class Flags:
    """What every command takes beside its own options.

    Args:
        json: print one JSON object on standard output and everything else on standard error.
        debug: show tracebacks.
    """

    json: bool = False
    debug: bool = False


def parse_options(
    config_type: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    positionals: Mapping[str, str] | None = None,
    recipes: Path | None = None,
    aside: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    faults: Callable[[Mapping[str, Any]], list[CrlError]] | None = None,
) -> tuple[T, Flags, dict[str, str]]:
    """Return the configuration, the common flags and the positional words of one command line.

    `--config FILE` reads YAML; dotted options (`--train.lr 0.1`) override it wherever they stand; of several
    files, and of an option given twice, the last wins. A name that is no file may be that of a YAML file in
    the folder `recipes` (`--config paper_resnet34`). Keys named in `aside` may stand in a file, as those of
    another command that shares it: they are not read, which is told. On the line they are unknown options.
    `base` is read as the content of a file that stands before all others.
    A yes-or-no option may stand alone (`--faces`), be turned round (`--no-serve`) or take true or false; one
    that may be a word too stands alone or takes its word (`--gpu`, `--gpu cuda:1`). And
    dashes may stand for the underscores of a name (`--auto-port`). Positional words may stand anywhere.
    `positionals` maps a positional's name to its help; a name ending in "..." takes one word or more, which
    come back joined by newlines. `faults` says of the sections what else cannot be right, such as a file that
    is not there. Raises UsageError naming every unknown key with the nearest known one, the error of all
    faults together, and SystemExit(0) after `--help`.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    known = dict(_leaves(config_type))
    sections = {item.name: str for item in fields(config_type) if item.name not in known}  # type: ignore[arg-type]
    argv = _spelled_out(_with_recipes(argv, recipes), {**known, **sections, **spoken_options(config_type)})
    _refuse_on_line(argv, aside, known)
    _refuse_unclear(argv, known)
    check_values(argv, config_type)
    given = Given(list(argv), read_config_files(argv, recipes))
    if base is not None:
        given.begin_with(base)
    rewrite(given, config_type)
    notices = _check_keys(given.files, config_type, aside)
    argv = given.argv
    parser = ArgumentParser(prog=prog, description=about, exit_on_error=False, allow_abbrev=False)
    for name, text in (positionals or {}).items():
        repeated = name.endswith("...")
        parser.add_argument(name.removesuffix("..."), type=str, help=text, nargs="+" if repeated else None)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    hints, told = get_type_hints(config_type), described_fields(config_type)
    for key in aside:
        parser.add_argument(f"--{key}", type=Any, help=SUPPRESS)
    for item in fields(config_type):  # type: ignore[arg-type]
        hint, about_it = hints[item.name], told.get(item.name)
        if is_dataclass(hint):
            parser.add_class_arguments(hint, item.name, fail_untyped=False)
        else:
            default = item.default if item.default_factory is MISSING else item.default_factory()
            parser.add_argument(f"--{item.name}", type=hint, default=default, help=about_it)
    _add_generated_help(parser, config_type)
    try:
        values = parser.parse_args(_lists_as_yaml(given.words(), known))
        parts = parser.instantiate(values)
    except ArgumentError as error:
        raise UsageError(explain_refusal(str(error), argv, known, old_keys(config_type))) from None
    for note in given.notes:
        say(note)
    words = {}
    for name in positionals or {}:
        value = parts[name.removesuffix("...")]
        words[name.removesuffix("...")] = "\n".join(value) if isinstance(value, list) else value
    given_parts = {item.name: parts[item.name] for item in fields(config_type)}  # type: ignore[arg-type]
    files = ", ".join(filter(None, values_of("--config", argv)))
    behind = f"\n(with the options in {files})" if files else ""
    refuse_faults(faults, config_type, given_parts, behind)
    try:
        config = config_type(**given_parts)
    except UsageError as error:
        raise UsageError(f"{error}{behind}") from None
    for notice in notices:
        say(f"notice: {notice}, which {prog} does not take: left aside")
    return config, Flags(json=parts.json, debug=parts.debug), words


def refuse_faults(
    faults: Callable[[Mapping[str, Any]], list[CrlError]] | None,
    config_type: type,
    parts: Mapping[str, Any],
    behind: str = "",
) -> None:
    """Raise one error for everything that `faults` finds, and every quick fault of the sections.

    A number that is infinite, or none, is refused for every option of every command.

    Args:
        faults: of a command, as `parse_options`; None finds nothing.
        config_type: whose `quick_faults`, where it has them, are told along.
        parts: the sections by name, and the other options.
        behind: what is said after each quick fault.
    """
    found = [] if faults is None else faults(parts)
    if odd := [UsageError(f"{told}{behind}") for told in not_finite(parts)]:
        raise joined([*odd, *found])
    if found:
        quick: list[CrlError] = []
        if (look := getattr(config_type, "quick_faults", None)) is not None:
            quick = look(SimpleNamespace(**parts))
        raise joined([*(UsageError(f"{error}{behind}") for error in quick), *found])


def described_fields(config_type: type) -> dict[str, str]:
    """Return what the docstrings of a configuration and of its bases say about each field."""
    from docstring_parser import parse

    told: dict[str, str] = {}
    for base in reversed(config_type.__mro__):
        told |= {each.arg_name: each.description or "" for each in parse(base.__doc__ or "").params}
    return told


def load_config(config_type: type[T], file: Path) -> T:
    """Return the configuration saved in a run folder's YAML file."""
    return parse_options(config_type, ["--config", str(file)], prog="crl", about="")[0]


def _leaves(config_type: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = get_type_hints(config_type)
    for item in fields(config_type):
        hint = hints[item.name]
        if is_dataclass(hint):
            yield from _leaves(hint, f"{prefix}{item.name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{item.name}", hint


def _with_recipes(argv: Sequence[str], recipes: Path | None) -> list[str]:
    """Put the file of a recipe in the place of its name, wherever `--config` names no file."""
    words = [
        part for word in argv for part in (word.split("=", 1) if word.startswith("--config=") else [word])
    ]
    for position, word in enumerate(words[1:], 1):
        if recipes is None or words[position - 1] != "--config" or is_file(word):
            continue
        file = recipes / f"{word}.yaml"
        if file.parent == recipes and file.is_file():
            words[position] = str(file)
    return words


def _spelled_out(argv: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Return the words with each known option and its value as one word, behind all positional words.

    The files come before the other options, so that what stands on the line wins over them.

    >>> _spelled_out(["--no-serve", "--port", "80", "x"], {"serve": bool, "port": int})
    ['x', '--serve=false', '--port=80']
    """
    positionals, options, rest = [], [], list(argv)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name if name in known else name.replace("-", "_")
        turned = name.removeprefix("no_")
        if not word.startswith("--"):
            positionals.append(word)
        elif name not in known and _yes_or_no(known.get(turned)) and not equals:
            options.append(f"--{turned}=false")
        elif name not in known and name != "config" and not _in_table(name, known):
            options.append(word)
        elif equals:
            options.append(f"--{name}={value}")
        elif _stands_alone(known.get(name), rest[:1]):
            options.append(f"--{name}=true")
        else:
            has_value = rest and not rest[0].startswith("--")
            options.append(f"--{name}={rest.pop(0)}" if has_value else f"--{name}")
    files = [word for word in options if word.partition("=")[0] == "--config"]
    return positionals + files + [word for word in options if word not in files]


def _stands_alone(hint: Any, coming: Sequence[str]) -> bool:
    """Return whether an option that may be yes or no has no value behind it."""
    if hint is bool:
        return not any(word.lower() in ("true", "false") for word in coming)
    return _yes_or_no(hint) and all(word.startswith("--") for word in coming)


def _yes_or_no(hint: Any) -> bool:
    """Return whether an option may be yes or no: a bool, or one that takes a word too (bool | str)."""
    return hint is bool or bool in get_args(hint)


def _in_table(name: str, known: Mapping[str, Any]) -> bool:
    """Return whether a name is that of an entry in an option that holds any names (`--head.options.dim`)."""
    return str(known.get(name.rpartition(".")[0], "")).startswith("dict[")


def _refuse_on_line(argv: Sequence[str], aside: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raise UsageError for an option on the line that only a file may hold."""
    for name in (word.removeprefix("--").partition("=")[0] for word in argv if word.startswith("--")):
        if name in aside:
            raise UsageError(f"unknown option --{name}{suggestion(name, list(known))}")


def _refuse_unclear(argv: Sequence[str], known: Mapping[str, Any]) -> None:
    """Raise UsageError for a number that the parser, which reads YAML, takes for another one: 1:30 for 90."""
    for word in argv:
        name, _, value = word.removeprefix("--").partition("=")
        hint = known.get(name)
        if {int, float} & {hint, *get_args(hint)} and (told := ambiguous_number(value)):
            raise UsageError(f"--{name}: {told}")


def _check_keys(
    files: Sequence[tuple[str, dict[str, Any]]], config_type: type, aside: Sequence[str]
) -> list[str]:
    """Return what the files hold of the keys left aside, a sentence's beginning for each file.

    Raises UsageError, naming the file, for keys that no option has.
    """
    notices = []
    for name, content in files:
        own = {key: value for key, value in content.items() if key not in aside}
        broken = list(unknown_keys(own, config_type, ""))
        if broken:
            raise UsageError(f"{name}:\n" + "\n".join(f"  {line}" for line in broken))
        if left := [key for key in content if key in aside]:
            notices.append(f"{Path(name).name} also holds {', '.join(left)}")
    return notices


def _add_generated_help(parser: Any, config_type: type, prefix: str = "") -> None:
    """Add to the help of options what their fields' metadata generate, such as the names there are."""
    hints = get_type_hints(config_type)
    actions = {action.dest: action for action in parser._actions}
    for item in fields(config_type):
        action = actions.get(f"{prefix}{item.name}")
        if is_dataclass(hints[item.name]):
            _add_generated_help(parser, hints[item.name], f"{prefix}{item.name}.")
            for one in fields(hints[item.name]) if REWORDED_HELP in item.metadata else ():
                inner = actions[f"{prefix}{item.name}.{one.name}"]
                inner.help = item.metadata[REWORDED_HELP](one.name, inner.help)
                group = parser.groups[item.name]
                group.title = item.metadata[REWORDED_HELP]("", group.title)
            if issubclass(hints[item.name], Worded) and action is not None:
                action.help, action.metavar = WORD_HELP, "WORD"
        elif GENERATED_HELP in item.metadata and action is not None:
            action.help = f"{action.help} {item.metadata[GENERATED_HELP]()}"


def unknown_keys(content: Mapping[str, Any], config_type: type, prefix: str) -> Iterator[str]:
    """Yield a sentence on every key that no option has, with the nearest known one."""
    hints = {item.name: get_type_hints(config_type)[item.name] for item in fields(config_type)}
    for key, value in content.items():
        if key not in hints:
            yield f"unknown key {prefix}{key}{suggestion(str(key), list(hints))}"
        elif is_dataclass(hints[key]):
            if isinstance(value, dict):
                yield from unknown_keys(value, hints[key], f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} must hold keys and values, got {value!r}"


def _lists_as_yaml(argv: Sequence[str], known: Mapping[str, Any]) -> list[str]:
    """Let `--train.milestones 80,100` stand for `--train.milestones [80,100]`."""
    words = list(argv)
    for position, word in enumerate(words):
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or not str(known.get(name, "")).startswith("tuple["):
            continue
        if equals and not value.startswith("["):
            words[position] = f"--{name}=[{value}]"
        elif not equals and position + 1 < len(words) and not words[position + 1].startswith(("[", "--")):
            words[position + 1] = f"[{words[position + 1]}]"
    return words

"""Command lines and YAML files -> configuration objects; mistakes are told with the nearest right name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from finetune.errors import UsageError

T = TypeVar("T")


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
) -> tuple[T, Flags, dict[str, str]]:
    """Return the configuration, the common flags and the positional words of one command line.

    `--config FILE` reads YAML, dotted options (`--train.lr 0.1`) override it, the last one wins.
    `positionals` maps a positional's name to its help; a name ending in "..." takes one word or more, which
    come back joined by newlines. Raises UsageError naming every unknown key with the nearest known one, and
    SystemExit(0) after `--help`.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    known = dict(_leaves(config_type))
    _check_config_files(argv, config_type)
    parser = ArgumentParser(prog=prog, description=about, exit_on_error=False, allow_abbrev=False)
    for name, text in (positionals or {}).items():
        repeated = name.endswith("...")
        parser.add_argument(name.removesuffix("..."), type=str, help=text, nargs="+" if repeated else None)
    parser.add_argument("--config", action="config", help="YAML file with any of the options below")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    hints = get_type_hints(config_type)
    for item in fields(config_type):  # type: ignore[arg-type]
        if is_dataclass(hints[item.name]):
            parser.add_class_arguments(hints[item.name], item.name, fail_untyped=False)
        else:
            parser.add_argument(f"--{item.name}", type=hints[item.name], default=item.default)
    try:
        values = parser.parse_args(_lists_as_yaml(argv, known))
        parts = parser.instantiate(values)
    except ArgumentError as error:
        raise UsageError(_explain(str(error), argv, known)) from None
    words = {}
    for name in positionals or {}:
        value = parts[name.removesuffix("...")]
        words[name.removesuffix("...")] = "\n".join(value) if isinstance(value, list) else value
    config = config_type(**{item.name: parts[item.name] for item in fields(config_type)})  # type: ignore[arg-type]
    return config, Flags(json=parts.json, debug=parts.debug), words


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


def _check_config_files(argv: Sequence[str], config_type: type) -> None:
    import yaml

    for position, word in enumerate(argv):
        if word == "--config" and position + 1 < len(argv):
            name = argv[position + 1]
        elif word.startswith("--config="):
            name = word.removeprefix("--config=")
        else:
            continue
        file = Path(name)
        if not file.is_file():
            raise UsageError(f"--config {name}: there is no such file")
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise UsageError(f"{name} is not valid YAML: {error}") from None
        if not isinstance(content, dict):
            raise UsageError(f"{name} must hold keys and values, got {type(content).__name__}")
        broken = list(_unknown_keys(content, config_type, ""))
        if broken:
            raise UsageError(f"{name}:\n" + "\n".join(f"  {line}" for line in broken))


def _unknown_keys(content: Mapping[str, Any], config_type: type, prefix: str) -> Iterator[str]:
    hints = {item.name: get_type_hints(config_type)[item.name] for item in fields(config_type)}
    for key, value in content.items():
        if key not in hints:
            yield f"unknown key {prefix}{key}{suggestion(str(key), list(hints))}"
        elif is_dataclass(hints[key]):
            if isinstance(value, dict):
                yield from _unknown_keys(value, hints[key], f"{prefix}{key}.")
            else:
                yield f"{prefix}{key} must hold keys and values, got {value!r}"


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return " (did you mean ...?)" for a near name, else the list of what there is.

    >>> suggestion("epoch", ["epochs", "lr"])
    ' (did you mean epochs?)'
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else f"; known: {', '.join(sorted(known))}"


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


def _explain(message: str, argv: Sequence[str], known: Mapping[str, Any]) -> str:
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        names = [word.partition("=")[0] for word in unknown.group(1).split() if word.startswith("--")]
        lines = [f"unknown option {name}{suggestion(name[2:], list(known))}" for name in names]
        return "\n".join(lines) if lines else f"{message}; --help lists what this command takes"
    bad = re.match(r'Parser key "([\w.]+)":\s*(.*)', message, re.DOTALL)
    if bad and bad.group(1) in known:
        allowed = get_args(known[bad.group(1)])
        choice = [str(value) for value in allowed if isinstance(value, str)]
        wish = f"one of {', '.join(choice)}" if choice else _type_name(known[bad.group(1)])
        got = re.search(r"Got value: (.*)", bad.group(2))
        arrived = got.group(1).strip() if got else bad.group(2).strip()
        near = suggestion(arrived, choice) if choice and difflib.get_close_matches(arrived, choice) else ""
        source = next((f" (in {argv[i + 1]})" for i, w in enumerate(argv[:-1]) if w == "--config"), "")
        on_line = any(word.partition("=")[0] == f"--{bad.group(1)}" for word in argv)
        return f"--{bad.group(1)}{'' if on_line else source} must be {wish}, got {arrived}{near}"
    return message


def _type_name(hint: Any) -> str:
    return (
        hint.__name__
        if isinstance(hint, type)
        else str(hint).replace("NoneType", "null").replace("None", "null")
    )

"""Files that a command line names, read and checked before the parser of options sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

from finetune.errors import UsageError
from finetune.runs.files import is_file
from finetune.runs.parse import check_depth, parse_yaml, text_of


def values_of(option: str, argv: Sequence[str]) -> list[str]:
    """Return the words that an option was given, as `--option word` or `--option=word`."""
    joined = [word.removeprefix(f"{option}=") for word in argv if word.startswith(f"{option}=")]
    return joined + [value for word, value in pairwise(argv) if word == option]


def read_config_files(argv: Sequence[str], recipes: Path | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the content of every file that `--config` names, in their order."""
    files = []
    for name in values_of("--config", argv):
        if not is_file(name):
            known = [] if recipes is None else sorted(recipe.stem for recipe in recipes.glob("*.yaml"))
            hint = f"; recipes by name: {', '.join(known)}" if known else ""
            raise UsageError(f"--config {name}: there is no such file{hint}")
        content = _read(name)
        if not isinstance(content, dict):
            got = "nothing" if content is None else type(content).__name__
            raise UsageError(f"{name} must hold keys and values, got {got}")
        files.append((name, content))
    return files


def check_values(argv: Sequence[str], config_type: type) -> None:
    """Raise UsageError for a value, or the YAML file given for a section, that the parser must not see."""
    hints = get_type_hints(config_type)
    sections = {f"--{item.name}" for item in fields(config_type) if is_dataclass(hints[item.name])}
    for word in argv:
        option, _, value = word.partition("=")
        try:
            check_depth(value)
        except ValueError as error:
            raise UsageError(f"{option}: {error}") from None
        if option in sections and is_file(value):
            _read(value)


def _read(name: str) -> Any:
    try:
        text = text_of(Path(name).read_bytes())
    except ValueError as error:
        raise UsageError(f"{name}: {error}") from None
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise UsageError(f"{name} is not valid YAML: {error}") from None

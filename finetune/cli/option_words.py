"""What is wrong with an option, in words: the nearest name, the choices there are, what arrived."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args

from finetune.cli.config_files import values_of
from finetune.runs.files import is_file


def suggestion(name: str, known: Sequence[str], *, listed: bool = True) -> str:
    """Return " (did you mean ...?)" for a near name, else the list of what there is (unless given already).

    >>> suggestion("epoch", ["epochs", "lr"])
    ' (did you mean epochs?)'
    """
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if near:
        return f" (did you mean {near[0]}?)"
    return f"; known: {', '.join(sorted(known))}" if listed else ""


def not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Yield a sentence on every number of sections, lists and mappings that is infinite or no number.

    >>> list(not_finite({"train": {"lr": float("inf"), "milestones": (1, 2.5)}, "seed": 0}))
    ['--train.lr must be a finite number, got inf']
    """
    parts: Mapping[str, Any] = {}
    if isinstance(value, float) and not math.isfinite(value):
        yield f"--{name} must be a finite number, got {value}"
    elif is_dataclass(value):
        parts = {item.name: getattr(value, item.name) for item in fields(value)}
    elif isinstance(value, Mapping):
        parts = value
    elif isinstance(value, list | tuple):
        yield from (told for one in value for told in not_finite(one, name))
    for key, one in parts.items():
        yield from not_finite(one, f"{name}.{key}" if name else str(key))


def explain_refusal(
    message: str, argv: Sequence[str], known: Mapping[str, Any], old: Mapping[str, str]
) -> str:
    """Return the parser's message in the words of the command line.

    `known` are the options with their types, `old` the keys of earlier versions with today's names.
    """
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        names = [word.partition("=")[0] for word in unknown.group(1).split() if word.startswith("--")]
        lines = [f"unknown option {name}{_nearest(name[2:], known, old)}" for name in names]
        dashed = [word for word in argv if word.startswith("-") and word in unknown.group(1)]
        for word in filter(is_file, dashed):
            return f"{word} is read as an option, for its name begins with a dash: write ./{word}"
        return "\n".join(lines) if lines else f"{message}; --help lists what this command takes"
    lost = re.match(r"argument (?:--)?([\w.]+): expected one argument", message)
    if lost:  # the parser takes --run.cache for a part of --run, or of the positional word
        start = f"--{lost[1]}."
        names = [word.partition("=")[0][2:] for word in argv if word.startswith(start)]
        lines = [
            f"unknown option --{name}{_nearest(name, known, old)}" for name in names if name not in known
        ]
        return "\n".join(lines) or message
    bad = re.match(r'Parser key "([\w.]+)":\s*(.*)', message, re.DOTALL)
    if bad and bad.group(1) in known:
        choice = _choices(known[bad.group(1)])
        wish = f"one of {', '.join(choice)}" if choice else _type_name(known[bad.group(1)])
        got = re.search(r"(?:Got|Given) value: (.*)", bad.group(2))
        arrived = got.group(1).strip() if got else bad.group(2).strip()
        near = suggestion(arrived, choice, listed=False)
        on_line = arrived in values_of(f"--{bad.group(1)}", argv)
        files = "" if on_line else ", ".join(values_of("--config", argv))
        return f"--{bad.group(1)}{f' (in {files})' if files else ''} must be {wish}, got {arrived}{near}"
    return message


def _nearest(name: str, known: Mapping[str, Any], old: Mapping[str, str]) -> str:
    """Return the suggestion for an unknown name; where an old key is the nearest, today's."""
    text = suggestion(name, [*known, *old])
    found = re.search(r"mean (.*)\?", text)
    return text.replace(found[1], old[found[1]]) if found and found[1] in old else text


def _choices(hint: Any) -> list[str]:
    """Return the names that an option may have, with true, false and null where these may stand; or none.

    >>> from typing import Literal
    >>> _choices(Literal["flip", "ten"] | None), _choices(int | None), _choices(bool | Literal["auto"])
    (['flip', 'ten', 'null'], [], ['auto', 'true', 'false'])
    """
    parts = get_args(hint)
    names = [name for part in parts for name in ([part] if isinstance(part, str) else _choices(part))]
    further = [*(["true", "false"] if bool in parts else []), *(["null"] if type(None) in parts else [])]
    return [*names, *further] if names else []


def _type_name(hint: Any) -> str:
    return (
        hint.__name__
        if isinstance(hint, type)
        else str(hint).replace("NoneType", "null").replace("None", "null")
    )

"""YAML and JSON as this toolkit reads them: no key twice, and no text that is nested without end."""

from __future__ import annotations

import codecs
import copy
import json
import re
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import yaml

_SIXTIETHS = re.compile(r"[0-9]+(?::[0-5]?[0-9])+(?:\.[0-9]*)?")
_OCTAL = re.compile(r"0[0-7]+")
_MARKS_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)
DEEPEST = 100  # levels of brackets or indents; a configuration has four
MOST_VALUES = 100_000  # once every alias is written out


class TextError(ValueError):
    """A text that is no YAML or JSON as this toolkit reads it; says the line where that is known."""


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key that stands twice and brackets nested without end."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node of the tree, at most so many levels deep."""
        self._depth += 1
        if self._depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise TextError(f"line {line}: nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return a whole number; one that YAML's editions and people read differently is refused."""
        _refuse_ambiguous(node)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Return a number; sixtieths, 1:30.5, are refused."""
        _refuse_ambiguous(node)
        return super().construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Return a mapping; keys that `<<` brings in may be written again, as YAML has it."""
        lines: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in lines:
                raise TextError(
                    f"line {line}: {key} stands twice (first in line {lines[key]}); keep one of them"
                )
            if isinstance(key, Hashable):
                lines[key] = line
        return super().construct_mapping(node, deep=deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _refuse_ambiguous(node: yaml.ScalarNode) -> None:
    if told := ambiguous_number(node.value):
        raise TextError(f"line {node.start_mark.line + 1}: {told}")


def ambiguous_number(text: str) -> str:
    """Return what is unclear about a number: 010 is 8 and 1:30 is 90 to YAML; empty for any other text.

    >>> ambiguous_number("010")
    '010 is 8 to some programs and 10 to others; write it without the zero before it'
    >>> ambiguous_number("1:30"), ambiguous_number("10"), ambiguous_number("0.5"), ambiguous_number("0")
    ('1:30 is 90 to YAML; write that number, or put quotes around the text', '', '', '')
    """
    bare = text.lstrip("+-").replace("_", "")
    if _SIXTIETHS.fullmatch(bare):
        places = [float(place) for place in bare.split(":")]
        value = sum(place * 60**power for power, place in enumerate(reversed(places)))
        return f"{text} is {value:g} to YAML; write that number, or put quotes around the text"
    if _OCTAL.fullmatch(bare):
        return (
            f"{text} is {int(bare, 8)} to some programs and {int(bare)} to others; write it without the zero "
            "before it"
        )
    return ""


def text_of(content: bytes) -> str:
    """Return the text of a file's bytes in UTF-8, a mark at its beginning left out.

    Raises TextError, naming the encoding where it shows, for other bytes.

    >>> text_of("lr: 1".encode("utf-8-sig"))
    'lr: 1'
    >>> text_of("lr: 1".encode("utf-16"))
    Traceback (most recent call last):
    finetune.runs.parse.TextError: UTF-16 text, not UTF-8; save it as UTF-8 (editors: "Save with encoding")
    """
    how = 'save it as UTF-8 (editors: "Save with encoding")'
    for encoding, marks in (("UTF-32", _MARKS_32), ("UTF-16", (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))):
        if content.startswith(marks):
            raise TextError(f"{encoding} text, not UTF-8; {how}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(f"byte {error.start} is not UTF-8 text; {how}") from None
    if "\0" in text:
        raise TextError(f"holds zero bytes, as UTF-16 text does; {how}")
    return text


def parse_yaml(text: str) -> Any:
    """Return the plain values in a YAML text.

    Raises TextError, naming the line, for what is no YAML, for a key that stands twice in one place, for
    nesting without end, and for aliases that stand for millions of values or contain themselves.

    >>> parse_yaml("train: {lr: 0.1}")
    {'train': {'lr': 0.1}}
    """
    return copy.deepcopy(_parsed(text))


@lru_cache(maxsize=16)  # a command reads its run's configuration several times, a study that of each cell
def _parsed(text: str) -> Any:
    try:
        loader = _Loader(text)  # a safe loader
        node = loader.get_single_node()
        if node is None:
            return None
        _check_aliases(node, {})
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise TextError(str(error)) from None
    except RecursionError:
        raise TextError(f"nested more than {DEEPEST} levels deep") from None


def _check_aliases(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many values a node has, aliases written out, and how many levels; `known` those seen.

    Raises TextError for an alias within its own anchor, and for more of either than any text needs.
    """
    line = node.start_mark.line + 1
    if id(node) in known:
        if known[id(node)] == (0, 0):
            raise TextError(f"line {line}: an alias (*) stands inside what it repeats")
        return known[id(node)]
    known[id(node)] = 0, 0
    inner = node.value if isinstance(node, yaml.CollectionNode) else []
    flat = [part for pair in inner for part in pair] if isinstance(node, yaml.MappingNode) else inner
    found = [_check_aliases(part, known) for part in flat]
    size = 1 + sum(values for values, _ in found)
    depth = 1 + max((levels for _, levels in found), default=0)
    if size > MOST_VALUES:
        raise TextError(f"line {line}: more than {MOST_VALUES:,} values once its aliases (*) are written out")
    if depth > DEEPEST:
        raise TextError(f"line {line}: nested more than {DEEPEST} levels deep")
    known[id(node)] = size, depth
    return size, depth


def check_depth(text: str) -> None:
    """Raise TextError for brackets nested so deep that a parser might follow them to the end of its stack."""
    depth = 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if depth > DEEPEST:
            raise TextError(f"nested more than {DEEPEST} levels deep")


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text; TextError where it is none, or nested without end.

    >>> parse_json('{"n": 1}')
    {'n': 1}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise TextError("nested without end") from None
    except UnicodeDecodeError as error:
        raise TextError(f"no text in UTF-8: {error}") from None

"""The table of losses by name; a class is imported, and torch with it, when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core_losses.reduction import LossModule


class LossTable(MutableMapping[str, "type[LossModule]"]):
    """Losses by name, in order; a class of one's own is added by `table[name] = cls`.

    Args:
        places: where each name's class stands, as "module:class".
        ordered: names of the losses that read the order of the classes.

    >>> list(LossTable({"crl": "core_losses.posterior:CompetingRatioLoss"}))
    ['crl']
    """

    def __init__(self, places: Mapping[str, str], ordered: Collection[str] = ()) -> None:
        self._entries: dict[str, str | type[LossModule]] = dict(places)
        self._ordered = frozenset(ordered)

    def __getitem__(self, name: str) -> type[LossModule]:
        entry = self._entries[name]
        if isinstance(entry, str):
            module, _, own = entry.partition(":")
            entry = self._entries[name] = vars(importlib.import_module(module))[own]
        return entry

    def reads_order(self, name: str) -> bool:
        """Return whether a loss needs classes with an order, without importing it; KeyError if unknown.

        >>> table = LossTable({"olog": "core_losses.ordinal:OrderedLogLoss"}, ordered=["olog"])
        >>> table.reads_order("olog")
        True
        """
        entry = self._entries[name]
        return name in self._ordered if isinstance(entry, str) else entry.ordered

    def class_name(self, name: str) -> str:
        """Return what a loss's class is called, without importing it; KeyError for an unknown loss."""
        entry = self._entries[name]
        return entry.rpartition(":")[2] if isinstance(entry, str) else entry.__name__

    def __setitem__(self, name: str, loss: type[LossModule]) -> None:
        self._entries[name] = loss

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"LossTable({', '.join(self._entries)})"

    def __contains__(self, name: object) -> bool:
        return name in self._entries

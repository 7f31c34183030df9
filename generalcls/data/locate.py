"""Find a data set's files in the folder given, in its parent or in one of its folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.errors import DataError, UsageError, listing


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    Args:
        name: its name.
        folders: where its files lie, seen from the data set's folder, the likeliest first.
        markers: files (with * for any text) of which one must be there.
        looked_for: what to place where, for the message.
    """

    name: str
    folders: tuple[str, ...]
    markers: tuple[str, ...]
    looked_for: str

    def stands_in(self, folder: Path) -> bool:
        """Return whether one of the marker files lies in a folder."""
        return any(file.is_file() for marker in self.markers for file in folder.glob(marker))


@dataclass(frozen=True)
class Place:
    """A layout that was found, and the folder that holds its files."""

    layout: str
    folder: Path
    notes: tuple[str, ...] = ()


def find_place(title: str, root: str | None, layouts: Sequence[Layout], source: str) -> Place:
    """Return where a data set lies: in `root`, in one of the folders in it, or in its parent.

    Args:
        title: the data set's name.
        root: the folder given.
        layouts: the ways in which it may lie, the preferred one first.
        source: where such data come from.

    Raises:
        UsageError: no folder was given.
        DataError: there is no such folder, nothing was found (what was looked for is listed), or the data set
            lies in two folders within `root`.
    """
    wanted = listing([f"{layout.name}: {layout.looked_for}" for layout in layouts])
    if root is None:
        raise UsageError(
            f"{title} is read from a folder: say --data.root FOLDER, which holds\n{wanted}\n"
            f"Where from: {source}"
        )
    given = Path(root)
    if not given.is_dir():
        raise DataError(f"{given}: there is no such folder; {title} should lie there as\n{wanted}")
    for near in _places(given):
        found = [place for folder in near if (place := _first_in(folder, layouts)) is not None]
        if len(found) > 1:
            places = listing([str(place.folder) for place in found])
            raise DataError(f"{title} lies in several folders; give one of them as --data.root:\n{places}")
        if found:
            return found[0]
    entries = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in given.iterdir())
    raise DataError(
        f"{title} was not found in {given}. Looked there, in its folders and in its parent for\n{wanted}\n"
        f"found:\n{listing(entries) or '  nothing'}\nWhere from: {source}"
    )


def _places(root: Path) -> Iterator[list[Path]]:
    yield [root]
    yield sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    yield [root.absolute().parent]


def _first_in(folder: Path, layouts: Sequence[Layout]) -> Place | None:
    found = [
        Place(layout.name, folder / inner)
        for layout in layouts
        for inner in layout.folders
        if layout.stands_in(folder / inner)
    ]
    if not found:
        return None
    others = sorted({place.layout for place in found[1:]} - {found[0].layout})
    notes = tuple(f"{folder} holds it as {name} too; {found[0].layout} is read" for name in others)
    return Place(found[0].layout, found[0].folder, notes)

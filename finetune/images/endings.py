"""The one list of endings by which files are taken for images, and what is said of what is no image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

# Every ending that belongs to a format of `finetune.images.decode.FORMATS`.
PICTURE_ENDINGS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff")
) | {".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs"}
# Photographs and drawings whose formats are not read, by their ending.
UNREAD_ENDINGS = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"), "raw camera data"),
    **dict.fromkeys((".jxl",), "JPEG XL"),
    **dict.fromkeys(
        (".svg", ".eps", ".psd", ".xcf", ".ico", ".tga", ".exr", ".hdr", ".pfm"), "not a photograph"
    ),
}
NAMED = 10  # files or folders that a notice names
# Folders that a system or a storage device makes beside images: copies, thumbnails, what was deleted.
SYSTEM_FOLDERS = frozenset(
    ("__MACOSX", "@eaDir", "@Recycle", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
)


def is_seen(name: str) -> bool:
    """Return whether a file or folder is looked at by its name: no hidden one, and no system's own folder.

    >>> [is_seen(name) for name in ("robin", ".ipynb_checkpoints", "@eaDir")]
    [True, False, False]
    """
    return not name.startswith(".") and name not in SYSTEM_FOLDERS


def ending(name: str) -> str:
    """Return a file's ending in lower case with its dot; empty where the name has none.

    >>> ending("a/B.JFIF"), ending("README")
    ('.jfif', '')
    """
    last = name.rstrip("/").rpartition("/")[2]
    dot = last.rfind(".")
    return last[dot:].lower() if 0 < dot < len(last) - 1 else ""


def is_picture(name: str) -> bool:
    """Return whether a file is an image by its ending.

    >>> is_picture("a.JPE"), is_picture("a.heic")
    (True, False)
    """
    return ending(name) in PICTURE_ENDINGS


def count_endings(names: Iterable[str], most: int = 5) -> str:
    """Return how many files have each ending, the most common first.

    >>> count_endings(["a.txt", "b.TXT", "README"])
    '2 .txt, 1 without an ending'
    """
    found = Counter(ending(name) for name in names).most_common()
    told = [f"{count} {kind or 'without an ending'}" for kind, count in found[:most]]
    rest = sum(count for _, count in found[most:])
    return ", ".join([*told, *([f"{rest} others"] if rest else [])])


def unread_notices(names: Iterable[str]) -> list[str]:
    """Return a sentence on files that are images in a format that is not read, and one on all other files.

    >>> unread_notices(["a.HEIC", "b.txt"])[0]
    '1 image is in a format that is not read here and is left out; export it as JPEG: 1 .heic (HEIC)'
    """
    listed = list(names)
    images = Counter(kind for kind in map(ending, listed) if kind in UNREAD_ENDINGS)
    others = [name for name in listed if ending(name) not in UNREAD_ENDINGS]
    notices = []
    if images:
        kinds = ", ".join(f"{count} {kind} ({UNREAD_ENDINGS[kind]})" for kind, count in images.most_common())
        told = f"{images.total()} images are in a format that is not read here and are left out; export them"
        if images.total() == 1:
            told = "1 image is in a format that is not read here and is left out; export it"
        notices.append(f"{told} as JPEG: {kinds}")
    if others:
        told = f"{len(others)} files are no images by their ending and are left out"
        told = "1 file is no image by its ending and is left out" if len(others) == 1 else told
        notices.append(f"{told}: {count_endings(others)}")
    return notices


def named(what: str, names: list[str]) -> list[str]:
    """Return a notice that counts and names folders; none where there are none."""
    more = ", ..." if len(names) > NAMED else ""
    return [f"{len(names)} {what}: {', '.join(names[:NAMED])}{more}"] if names else []


def hidden_notice(hidden: Mapping[str, int]) -> list[str]:
    """Return a notice on hidden files and folders, with the number of images in each; none for none."""
    if not hidden:
        return []
    told = [f"{name} ({count})" for name, count in list(hidden.items())[:NAMED]]
    more = ", ..." if len(hidden) > NAMED else ""
    return [
        f"{sum(hidden.values())} images are hidden (their name or folder begins with a dot, or is a system's "
        f"own, as __MACOSX and @eaDir are) and are left out: {', '.join(told)}{more}"
    ]


def dead_links(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the links that lead nowhere; those that are images by their ending are missing images."""
    others = [name for name in sorted(filter(is_seen, names)) if not is_picture(name)]
    return [name for name in others if os.path.islink(folder / name) and not os.path.exists(folder / name)]  # noqa: PTH110, PTH114

"""`crl cache ls | clean`: the images and features kept between runs, and how to be rid of them."""

from __future__ import annotations

import time
from typing import Any

from apps.config import CacheConfig
from finetune.cli.console import format_table, say
from finetune.cli.option_words import suggestion
from finetune.errors import UsageError
from finetune.images.cache.digests import forget_digests
from finetune.images.cache.file import read_index
from finetune.images.cache.limit import (
    GB,
    LIMIT_VARIABLE,
    CacheFile,
    bytes_of,
    limit_bytes,
    list_caches,
    remove_oldest,
)
from finetune.images.cache.records import count_images
from finetune.images.cache.source import cache_folder

DAY = 86_400  # seconds
ACTIONS = ("ls", "clean")
FEATURES = "features of a frozen backbone"
HEADER = ("file", "MB", "images", "px", "images from", "last used", "in use")


def look_after_cache(action: str, config: CacheConfig) -> dict[str, Any]:
    """List the caches of a folder, or remove those that no run holds; return what was found.

    Raises UsageError for another action, or a negative `keep_gb`.
    """
    if action not in ACTIONS:
        raise UsageError(
            f"crl cache takes {' or '.join(ACTIONS)}, got {action!r}{suggestion(action, ACTIONS)}"
        )
    if config.keep_gb < 0:
        raise UsageError(f"keep_gb must be 0 or more gigabytes, got {config.keep_gb:g}")
    folder = cache_folder(config.folder)
    caches = [] if folder is None else list_caches(folder)
    removed = []
    if action == "clean":
        if folder is not None and not config.keep_gb:
            forget_digests(folder)
        removed = remove_oldest(caches, lambda taken: taken <= config.keep_gb * GB)
    kept = [cache for cache in caches if cache not in removed]
    limit = limit_bytes()
    contents = [_content(cache) for cache in kept]
    if action == "ls" and kept:
        rows = [_row(cache, content) for cache, content in zip(kept, contents, strict=True)]
        say(format_table(HEADER, rows[::-1]))
    if action == "clean":
        say(f"removed: {len(removed)} of {len(caches)} caches, {_gigabytes(removed)} GB")
        busy = sum(cache.held for cache in kept)
        if busy:
            say(f"kept: {busy} in use by a run")
    where = "no folder to keep caches in" if folder is None else str(folder)
    say(f"{where}: {len(kept)} caches, {_gigabytes(kept)} of at most {limit / GB:g} GB ({LIMIT_VARIABLE})")
    return {
        "folder": None if folder is None else str(folder),
        "limit_bytes": limit,
        "caches": [
            _facts(cache) | dict(zip(("images", "px", "source"), content, strict=True))
            for cache, content in zip(kept, contents, strict=True)
        ],
        "removed": [_facts(cache) for cache in removed],
    }


def _row(cache: CacheFile, content: tuple[int, int, str]) -> tuple[str, ...]:
    days = max(0.0, time.time() - cache.used) / DAY
    ago = "today" if days < 1 else f"{days:.0f} days ago"
    images, side, source = content
    size = "" if source == FEATURES else f"{side}" if side else "unknown"
    shown = (f"{images:,}" if images else "unknown", size, source or "unknown")
    return cache.path.name, f"{cache.size / 1e6:.1f}", *shown, ago, "yes" if cache.held else "no"


def _content(cache: CacheFile) -> tuple[int, int, str]:
    """Return how many images a cache holds, their size in px and their folder; 0 or empty for unknown."""
    features = count_images(cache.path)
    if features is not None:
        return features, 0, FEATURES
    index = read_index(cache.path)
    if index is None:
        return 0, 0, ""
    return len(index.shapes), index.side or int(index.shapes.min(axis=1).max(initial=0)), index.source


def _facts(cache: CacheFile) -> dict[str, Any]:
    return {"file": cache.path.name, "bytes": cache.size, "used": cache.used, "in_use": cache.held}


def _gigabytes(caches: list[CacheFile]) -> str:
    return f"{bytes_of(caches) / GB:.2f}"

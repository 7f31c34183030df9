"""What a class may be called: one rule, before training and in exported models."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from finetune.errors import DataError, listing
from finetune.images.cells import identity_key

LONGEST_NAME = 200
UNSEEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # kinds of characters that nobody sees, or that steer


def is_printable(text: str) -> bool:
    """Return whether a text is neither empty nor longer than 200 characters, and every sign can be seen.

    Signs that are not seen could drive a terminal or turn a line around.

    >>> is_printable("Snowy owl"), is_printable("tab\\tname")
    (True, False)
    """
    odd = any(unicodedata.category(sign) in UNSEEN for sign in text)
    return not odd and len(text) <= LONGEST_NAME and bool(text.strip())


def looking_alike(names: Sequence[str]) -> list[str]:
    """Return the names that look like another one: equal in Unicode's compatible form (NFKC).

    >>> looking_alike(["owl", "robin", "owl "])
    ['owl', 'owl ']
    """
    shown = [unicodedata.normalize("NFKC", name).strip() for name in names]
    return _sharing(names, shown)


def _sharing(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """Return the names whose key is another one's too."""
    times = Counter(keys)
    return [name for name, key in zip(names, keys, strict=True) if times[key] > 1]


def check_class_names(names: Sequence[str]) -> None:
    """Raise DataError, listing them, for class names that no exported model could carry."""
    odd = [f"{name[:80]!a} ({len(name)} characters)" for name in names if not is_printable(name)]
    if odd:
        raise DataError(
            f"class names that are not printable text of 1 to {LONGEST_NAME} characters: {len(odd)}; every "
            f"exported model needs such text (no tab, line end or unseen sign); rename them:\n{listing(odd)}"
        )
    alike = looking_alike(names) or _sharing(names, list(map(identity_key, names)))
    if alike:
        raise DataError(
            f"{len(alike)} class names look like another one (7 and 007 are one number too), so that nobody "
            f"could tell them apart; rename them:\n{listing([f'{name!a}' for name in alike])}"
        )

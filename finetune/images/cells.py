"""What the cells of any table mean, whatever program wrote it: absent values, ids, whole numbers, paths.

Every reader of a table or a fold file asks here, so that no two of them differ.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

# How programs write that a value is absent (pandas, R, spreadsheets, SQL, Python), in any case.
ABSENT = frozenset(
    ("", "nan", "-nan", "none", "na", "n/a", "#n/a", "#na", "#n/a n/a", "<na>", "<nan>", "nat", "null")
) | {"(null)", "\\n", "nil", "undefined"}
_NUMBER = re.compile(r"[+-]?0*(\d+)(?:\.0*)?")
# A power needs a point or a sign: 1e5 may be a piece of a digest.
_POWER = re.compile(r"\+?(\d)(?:\.(\d*)[eE]\+?|[eE]\+)(\d{1,2})")
_BARE_POWER = re.compile(r"([+-]?\d+)[eE](\d{1,2})")
_DECIMAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,2})?")
_MARKS = str.maketrans({"\u2018": "'", "\u2019": "'", "`": "'", "\u00b4": "'", "_": " ", "-": " "})
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}([ ,'\u2019_])\d{3}(?:\1\d{3})*(?![\d.,])")
_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)")
# Letters of other scripts that look like Latin ones: Cyrillic, then Greek.
_LOOKS = str.maketrans(
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405\u051a"
    "\u051c\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u0475"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u03b1\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7",
    "ABEKMHOPCTYXIJSQWaeopcyxijshdqwvABEZHIKMNOPTYXaikvopux",
)
# Signs that are never part of a file's name or an id: control characters and halves of a character.
BROKEN = ("Cc", "Cs")
NAMED = 5  # spellings that a sentence names
LONGEST_WHOLE = 18  # digits, so that every whole number fits 64 bits


def is_absent(cell: str) -> bool:
    """Return whether a cell says that there is no value.

    >>> [is_absent(cell) for cell in ("", " NaN ", "<NA>", "None", "null", "0", "Nancy")]
    [True, True, True, True, True, False, False]
    """
    return bare(cell).lower() in ABSENT


def bare(text: str) -> str:
    """Return a text without blanks and signs of no width at its ends, as copying leaves them.

    >>> bare("\\ufeff path\\u200b\\u3000")
    'path'
    """
    shown = text.strip()
    if shown.isascii():
        return shown
    ends = [place for place, sign in enumerate(text) if not _is_unseen(sign)]
    return text[ends[0] : ends[-1] + 1] if ends else ""


def _is_unseen(sign: str) -> bool:
    return sign.isspace() or unicodedata.category(sign) == "Cf"


def is_broken(text: str) -> bool:
    """Return whether a text holds control characters, or bytes that are no UTF-8.

    Every kind of blank and what joins an emoji is no control character.

    >>> is_broken("1.02.03\\u202fPM.jpg"), is_broken("a\\tb"), is_broken("\\udce9t")
    (False, True, True)
    """
    return not text.isprintable() and any(unicodedata.category(sign) in BROKEN for sign in text)


def whole_number(cell: str) -> int | None:
    """Return a cell as a whole number from 0, None where it is none: 7, 7.0 and 007 are 7.

    >>> [whole_number(cell) for cell in ("7", "7.0", "007", "2.0E+01", "7.5", "-1", "x")]
    [7, 7, 7, 20, None, None, None]
    """
    key = _number_key(cell)
    return int(key) if key is not None and not key.startswith("-") and len(key) <= LONGEST_WHOLE else None


def real_number(cell: str) -> float | None:
    """Return a cell as a finite number, None where it is none; digits of every script are read.

    >>> [real_number(cell) for cell in ("2.5", "1e2", "\\uff12", "2_8", "nan", "inf", "0x1")]
    [2.5, 100.0, 2.0, None, None, None, None]
    """
    text = _plain_digits(cell)
    return float(text) if _DECIMAL.fullmatch(text) else None


def _plain_digits(text: str) -> str:
    """Return a text with the decimal digits of every script as 0 to 9."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(sign)) if sign.isdecimal() else sign for sign in text)


def _number_key(text: str) -> str | None:
    """Return the one way to write the whole number that a text is; None where it is none."""
    if not text.isascii():
        return None
    plain = _NUMBER.fullmatch(text)
    if plain is not None:
        return f"-{plain[1]}" if text.startswith("-") and plain[1] != "0" else plain[1]
    power = _POWER.fullmatch(text)
    if power is None:
        return None
    digits, tail = (power[1], (power[2] or "").rstrip("0"))
    zeros = int(power[3]) - len(tail)
    return (digits + tail + "0" * zeros).lstrip("0") or "0" if zeros >= 0 else None


def identity_key(text: str) -> str:
    """Return what two ids of one subject have in common, however they are written.

    Whole numbers by their value; other text by Unicode's compatible form (NFKC), with each run of blanks as
    one, and without signs of no width.

    >>> len({identity_key(text) for text in ("7", "7.0", "007", "\\uff17")})
    1
    >>> identity_key("Zoe\\u0308\\u00a0 Li") == identity_key("Zo\\u00eb Li")
    True
    """
    if not text.isascii():
        text = _plain_digits(unicodedata.normalize("NFKC", text))
        text = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    shown = " ".join(text.split())
    number = _number_key(shown)
    return shown if number is None else number


def same_identities(values: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return ids in one spelling each, the first that occurs, and the other spellings of each.

    >>> same_identities(["7.0", "7", "8", "007"])
    (['7.0', '7.0', '8', '7.0'], {'7.0': ['7', '007']})
    """
    first: dict[str, str] = {}
    others: dict[str, dict[str, None]] = defaultdict(dict)
    found = []
    key_of = {value: identity_key(value) for value in dict.fromkeys(values)}
    for value in values:
        chosen = first.setdefault(key_of[value], value)
        if value != chosen:
            others[chosen][value] = None
        found.append(chosen)
    return found, {chosen: list(more) for chosen, more in others.items()}


def spelling_notice(what: str, others: dict[str, list[str]]) -> list[str]:
    """Return a sentence on ids that are written in several ways; none where there are none."""
    if not others:
        return []
    shown = [" = ".join([chosen, *more]) for chosen, more in list(others.items())[:3]]
    rest = ", ..." if len(others) > len(shown) else ""
    return [
        f"{len(others)} {what} are written in several ways and count as one each: {', '.join(shown)}{rest}"
    ]


def near_key(text: str) -> str:
    """Return what two ids have in common that somebody may have written for one.

    Capitals, zeros before a number, signs between its thousands, powers without a sign, and the kinds of
    blanks, dashes and apostrophes play no part.

    >>> near_key("Anna_O\u2019Neil 07") == near_key("anna o'neil 7"), near_key("1e3") == near_key("1,000")
    (True, True)
    """
    power = _BARE_POWER.fullmatch(text)
    shown = identity_key(f"{power[1]}{'0' * int(power[2])}" if power else text)
    if not (shown.isascii() and shown.isalnum()):
        shown = _THOUSANDS.sub(lambda number: number[0].replace(number[1], ""), shown)
        shown = " ".join(unicodedata.normalize("NFKC", shown.casefold()).translate(_MARKS).split())
    return _ZEROS.sub("", shown.casefold())


def look_key(text: str) -> str:
    """Return `near_key` of a text with the Latin letters that its Cyrillic and Greek ones look like.

    >>> look_key("\u0410nna") == look_key("Anna"), look_key("\u0416anna") == look_key("Zanna")
    (True, False)
    """
    return near_key(unicodedata.normalize("NFD", text).translate(_LOOKS))


def near_notice(what: str, names: Sequence[str]) -> list[str]:
    """Return a sentence for each way in which names are almost one, and yet count as different; or none.

    Names differ by capitals, zeros and the like, or by letters of different scripts that look alike.

    >>> near_notice("subjects", ["Anna", "8", "anna", "Anna"])
    ['subjects are told apart by capitals, zeros or the like alone, and count as different: Anna / anna']
    """
    alike: dict[str, list[str]] = defaultdict(list)
    looking: dict[str, dict[str, str]] = defaultdict(dict)
    for name in dict.fromkeys(names):
        key = near_key(name)
        alike[key].append(name)
        looking[key if name.isascii() else look_key(name)].setdefault(key, name)
    near = [" / ".join(group) for group in alike.values() if len(group) > 1]
    look = [" / ".join(map(_with_script, group.values())) for group in looking.values() if len(group) > 1]
    return [
        *_differing(what, "capitals, zeros or the like alone", near),
        *_differing(what, "letters of different scripts that look alike", look),
    ]


def _differing(what: str, by: str, found: Sequence[str]) -> list[str]:
    if not found:
        return []
    rest = f", ... ({len(found)} in all)" if len(found) > NAMED else ""
    return [f"{what} are told apart by {by}, and count as different: {', '.join(found[:NAMED])}{rest}"]


def _with_script(name: str) -> str:
    """Return a name, and its first letter that looks Latin and is not."""
    odd = [sign for sign in unicodedata.normalize("NFD", name) if ord(sign) in _LOOKS]
    return f"{name} (with {unicodedata.name(odd[0]).lower()})" if odd else name


def one_spelling(name: str) -> str:
    """Return a name in Unicode's composed form (NFC), without blanks and signs of no width around it.

    >>> one_spelling(" me\\u0301sange\\u200b") == "m\\u00e9sange"
    True
    """
    return unicodedata.normalize("NFC", bare(name))


def slashes(path: str) -> str:
    """Return a path with forward slashes, as a table written on Windows has the other kind.

    >>> slashes("faces\\\\img0.jpg")
    'faces/img0.jpg'
    """
    return path.replace("\\", "/")


class SpelledPaths:
    """Finds files whose names on disk are in another Unicode form (NFC, NFD) than in a table.

    Each folder is listed at most once.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fspath(root)
        self._names: dict[str, dict[str, str]] = {}

    def find(self, path: str) -> str:
        """Return the relative path as it lies on disk; the path as given where nothing answers to it."""
        if path.isascii() or os.path.lexists(os.path.join(self._root, path)):  # noqa: PTH118
            return path
        place, steps = self._root, []
        for step in path.split("/"):
            name = self._name(place, step)
            if name is None:
                return path
            steps.append(name)
            place = os.path.join(place, name)  # noqa: PTH118
        return "/".join(steps)

    def _name(self, folder: str, name: str) -> str | None:
        if os.path.lexists(os.path.join(folder, name)):  # noqa: PTH118
            return name
        if folder not in self._names:
            try:
                listed = os.listdir(folder)  # noqa: PTH208
            except OSError:
                listed = []
            self._names[folder] = {unicodedata.normalize("NFC", one): one for one in listed}
        return self._names[folder].get(unicodedata.normalize("NFC", name))

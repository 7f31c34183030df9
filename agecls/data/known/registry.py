"""The one list of published sets of faces: names, readers, terms of use, and what is known to be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from agecls.data.known import csv_lists, file_names, mat_lists
from agecls.data.known.findings import Findings, OddRule
from finetune.errors import UsageError

CHECK_TERMS = "Read the terms where you got the images; this line is no legal advice."


@dataclass(frozen=True)
class KnownSet:
    """A published set of faces.

    Args:
        name: what `--data.name` calls it; capitals and hyphens play no part.
        title: its own name.
        read: fills the findings from a root.
        terms: its terms of use, in a line.
        people: whether it says which person an image shows.
        published: how many images its authors count; None where we have no count that we trust.
        groups: its age groups, where it has groups and no years.
        faults: what is known to be wrong with it, a sentence each.
    """

    name: str
    title: str
    read: Callable[[Path, Findings], None]
    terms: str
    people: bool
    published: int | None = None
    groups: str | None = None
    faults: tuple[str, ...] = ()

    def find(self, root: Path, odd: OddRule = "error") -> Findings:
        """Return what lies under a root; no image is opened.

        Raises DataError for a list that is not there, and for names or rows that cannot be read, unless
        `odd` is "drop".
        """
        found = Findings()
        self.read(root, found)
        found.settle(self.title, odd)
        return found


SETS: Mapping[str, KnownSet] = MappingProxyType(
    {
        one.name: one
        for one in (
            KnownSet(
                "utkface",
                "UTKFace",
                file_names.read_utkface,
                "research that is not commercial",
                people=False,
                published=23_705,
                faults=(
                    "no image says whom it shows: people may be in training and test",
                    "some images are there twice, many of them with two ages",
                ),
            ),
            KnownSet(
                "agedb",
                "AgeDB",
                file_names.read_agedb,
                "given out on request, research that is not commercial",
                people=True,
                published=16_488,
                faults=("a few names may be one person's in two spellings",),
            ),
            KnownSet(
                "fgnet",
                "FG-NET",
                file_names.read_fgnet,
                "research",
                people=True,
                published=1_002,
                faults=("the custom is to leave one person out at a time; five folds are harder to compare",),
            ),
            KnownSet(
                "morph",
                "MORPH-II",
                csv_lists.read_morph,
                "under a licence that is bought",
                people=True,
                faults=("police photographs; published errors are mostly of splits that share people",),
            ),
            KnownSet(
                "imdb-wiki",
                "IMDB-WIKI",
                mat_lists.read_imdb_wiki,
                "academic research only",
                people=True,
                published=460_723 + 62_328,
            ),
            KnownSet(
                "imdb-clean",
                "IMDB-Clean",
                csv_lists.read_imdb_clean,
                "labels MIT; the images are IMDB-WIKI's, academic research only",
                people=True,
            ),
            KnownSet("cacd", "CACD2000", mat_lists.read_cacd, "research", people=True, published=163_446),
            KnownSet(
                "fairface",
                "FairFace",
                csv_lists.read_fairface,
                "CC BY 4.0",
                people=False,
                published=86_744 + 10_954,
                groups=csv_lists.FAIRFACE_GROUPS,
                faults=("its labels in the column race are disputed",),
            ),
            KnownSet(
                "appa-real",
                "APPA-REAL",
                csv_lists.read_appa_real,
                "research",
                people=False,
                published=7_591,
                faults=("the same pictures as CLAP2016: never train on one and test on the other",),
            ),
            KnownSet(
                "clap2016",
                "CLAP2016",
                csv_lists.read_clap,
                "research",
                people=False,
                published=7_591,
                faults=(
                    "ages are means of people's guesses",
                    "the same pictures as APPA-REAL: never train on one and test on the other",
                ),
            ),
            KnownSet(
                "lagenda",
                "LAGENDA",
                csv_lists.read_lagenda,
                "each picture has a licence of its own (Open Images); the annotations are open",
                people=False,
                faults=("ages are people's guesses",),
            ),
        )
    }
)


def known_set(name: str) -> KnownSet:
    """Return a set by its name; UsageError lists the names.

    >>> known_set("FG-NET").title, known_set("UTKFace").people
    ('FG-NET', False)
    """
    plain = {_plain(known): one for known, one in SETS.items()}
    if _plain(name) not in plain:
        raise UsageError(f"data set {name!r} is not known; choose one of {', '.join(SETS)}")
    return plain[_plain(name)]


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())

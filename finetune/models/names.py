"""Names of backbones, heads and weights, known before torch and timm are imported: a slip is told at once."""

from __future__ import annotations

import difflib
import re
import sys
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from finetune.errors import CrlError, ModelFileError, UsageError

HEADS_GROUP = "crl_toolkit.heads"
MARGIN_HEADS = ("lsoftmax", "asoftmax", "cosface", "arcface")
ORDINAL_HEADS = ("corn", "cumulative", "year_laplace", "year_logistic")
OWN_HEADS = ("linear", *MARGIN_HEADS, *ORDINAL_HEADS)  # those of finetune.models.heads
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".pth.tar", ".pt.tar")
# Networks of finetune.models.face_networks, which timm knows once that is imported.
OWN_BACKBONES = frozenset(
    {
        *(f"iresnet{depth}" for depth in (18, 34, 50, 100, 200)),
        *(f"face_vit_{size}_patch9_112" for size in ("tiny", "small", "base", "large")),
    }
)
FEWEST_MODELS = 500  # a release of timm in which fewer are found is written otherwise than those known here

_REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)", re.MULTILINE)
_RENAMED = re.compile(r"register_model_deprecations\(__name__, \{(.*?)\}\)", re.DOTALL)
_TAGGED = re.compile(r"""['"](\w+\.\w+)['"]""")
_KEY = re.compile(r"""['"](\w+)['"]\s*:""")


@cache
def head_points() -> dict[str, metadata.EntryPoint]:
    """Return the heads of installed packages by name; none is imported."""
    return {point.name: point for point in metadata.entry_points(group=HEADS_GROUP)}


def head_names() -> list[str]:
    """Return the names of all heads there are, sorted; no head is imported.

    Where the table of heads is imported already, its names count: a program may have added to it.
    """
    table = sys.modules.get("finetune.models.heads.registry")
    own = OWN_HEADS if table is None else tuple(table.HEADS)
    return sorted({*own, *head_points()})


def has_weights_name(file: Path) -> bool:
    """Return whether a file is called as weights files are.

    >>> has_weights_name(Path("model_best.pth.tar")), has_weights_name(Path("images.tar"))
    (True, False)
    """
    return file.name.endswith(WEIGHT_SUFFIXES)


def weights_fault(weights: str, option: str) -> CrlError | None:
    """Return why pretrained, none, a file or a folder of weights cannot be right; None where it may."""
    path = Path(weights)
    if weights in ("pretrained", "none") or (weights.strip() and path.is_dir()):
        return None
    if not path.is_file():
        return ModelFileError(
            f"--{option} {weights or repr(weights)}: there is no such file or folder; give pretrained, none "
            "or a path"
        )
    if has_weights_name(path):
        return None
    return ModelFileError(
        f"--{option} {weights}: weights files end in {', '.join(WEIGHT_SUFFIXES)}, got {path.suffix!r}"
    )


def backbone_fault(name: str) -> CrlError | None:
    """Return why there is no backbone of this name, with near ones; None where there is, or may be.

    Once timm is imported it knows better, for other packages may add names to it: then None.
    """
    model = name.partition(".")[0]
    known = timm_names()
    if "timm" in sys.modules or len(known[0]) < FEWEST_MODELS:
        return None
    if model not in known[0] | OWN_BACKBONES:
        near = difflib.get_close_matches(model, known[0] | OWN_BACKBONES, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists them"
        return UsageError(f"no timm model is called {model!r}; {hint}")
    return None


def is_unknown_tag(name: str) -> bool:
    """Return whether timm's source files do not spell this model with this tag; a few are made up there."""
    return "." in name and name not in timm_names()[1]


@cache
def timm_names() -> tuple[frozenset[str], frozenset[str]]:
    """Return timm's models, former names too, and those with a tag, as its source files spell them."""
    models: set[str] = set()
    tagged: set[str] = set()
    found = find_spec("timm")
    for place in (found.submodule_search_locations or []) if found is not None else []:
        for file in Path(place, "models").glob("*.py"):
            text = file.read_text(encoding="utf-8", errors="replace")
            models |= set(_REGISTERED.findall(text))
            models |= {key for table in _RENAMED.findall(text) for key in _KEY.findall(table)}
            tagged |= set(_TAGGED.findall(text))
    return frozenset(models), frozenset(tagged)

"""Which packages are installed, and which overwrite each other; asked without importing any of them."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from finetune.errors import ResourceError

TOOLKIT = "crl-toolkit"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: what it is.
        status: ok; note (it works, and could be better); wrong (something fails, or will).
        found: what was found.
        repair: the fix: a command or a sentence; empty where nothing is to be done.
    """

    name: str
    status: Literal["ok", "note", "wrong"]
    found: str
    repair: str = ""


@dataclass(frozen=True)
class Twins:
    """Packages that write the same files: of each such family one may be installed.

    Args:
        name: what they provide.
        packages: their names, the wanted one first.
        strangers: those of them that are wrong even alone.
    """

    name: str
    packages: tuple[str, ...]
    strangers: tuple[str, ...] = ()


def families() -> tuple[Twins, ...]:
    """Return the families of duplicate packages; which ONNX Runtime is wanted depends on the machine."""
    runtimes = ("onnxruntime-gpu", "onnxruntime", "onnxruntime-directml", "onnxruntime-openvino")
    on_intel = platform.machine() in ("x86_64", "AMD64") and platform.system() in ("Linux", "Windows")
    wanted = runtimes[0] if on_intel else runtimes[1]
    cv2 = ("opencv-python-headless", "opencv-python", "opencv-contrib-python")
    return (
        Twins("OpenCV", (*cv2, "opencv-contrib-python-headless")),
        Twins("ONNX Runtime", (wanted, *(name for name in runtimes if name != wanted))),
        Twins("Albumentations", ("albumentations", "albumentationsx"), ("albumentationsx",)),
    )


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, None where it is not installed; nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def find_twins() -> list[Finding]:
    """Return what is wrong with duplicate packages, with the commands that fix it; [] where nothing is.

    Both packages of a pair write the same folder: the later one breaks the other, without a word.
    """
    findings = []
    for family in families():
        there = [name for name in family.packages if installed_version(name) is not None]
        if len(there) < 2 and not set(there) & set(family.strangers):
            continue
        verb = "are both installed and overwrite each other" if len(there) > 1 else "stands in the place of"
        what = f"{' and '.join(there)} {verb}" + ("" if len(there) > 1 else f" {family.packages[0]}")
        wanted = requirement(family.packages[0])
        mend = f'pip uninstall -y {" ".join(there)} && pip install "{wanted}"'
        findings.append(Finding(f"duplicate packages: {family.name}", "wrong", what, mend))
    return findings


def refuse_twins() -> None:
    """Raise ResourceError, with the commands that fix it, where duplicate packages are installed.

    Takes a few milliseconds and imports nothing: to be called before the first of them is imported.
    """
    lines = [f"{finding.found}. Fix it with:\n  {finding.repair}" for finding in find_twins()]
    if lines:
        raise ResourceError("\n".join(lines))


def requirement(package: str) -> str:
    """Return what the toolkit asks of a package, as pip takes it; the bare name where it asks nothing.

    >>> requirement("nothing-we-need")
    'nothing-we-need'
    """
    for line in required_lines():
        if re.match(r"[A-Za-z0-9._-]+", line).group().lower() == package:  # type: ignore[union-attr]
            return line.partition(";")[0].strip()
    return package


def required_lines() -> list[str]:
    """Return what the toolkit asks of packages, a line each as pip takes it; [] where it is not installed."""
    try:
        return metadata.requires(TOOLKIT) or []
    except metadata.PackageNotFoundError:
        return []

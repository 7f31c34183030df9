"""What an installation can be asked without importing its parts: packages, disk, threads, weights."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from apps.runtime.installed import TOOLKIT, Finding, installed_version, required_lines
from finetune.cli.console import on_one_line
from finetune.errors import UsageError
from finetune.images.cache.limit import GB, LIMIT_VARIABLE, limit_bytes, list_caches
from finetune.models.names import has_weights_name
from finetune.runs.files import free_bytes

LOW_BYTES, FEW_BYTES = 500_000_000, 5_000_000_000
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
LISTED = 12


def check_packages() -> list[Finding]:
    """Return the versions in use, and every needed package that is missing or of a wrong version."""
    from packaging.requirements import Requirement

    toolkit = installed_version(TOOLKIT)
    versions = [f"toolkit {toolkit or 'not installed'}"]
    wrong = []
    needed = [Requirement(line) for line in required_lines()]
    for need in (need for need in needed if need.marker is None or need.marker.evaluate({"extra": ""})):
        found, asked = installed_version(need.name), f"{need.name}{need.specifier}"
        if found is not None and need.specifier.contains(found, prereleases=True):
            versions.append(f"{need.name} {found}")
            continue
        what = f"needs {asked}, " + ("it is not installed" if found is None else f"found {found}")
        wrong.append(Finding(f"package {need.name}", "wrong", what, f'pip install "{asked}"'))
    findings = [Finding("python", "ok", f"{platform.python_version()} on {platform.platform(terse=True)}")]
    if toolkit is None:
        findings.append(Finding("toolkit", "note", "runs from its source folder", "pip install -e ."))
    return [*findings, Finding("packages", "ok", ", ".join(versions)), *wrong]


def check_disk(places: Mapping[str, Path]) -> Iterator[Finding]:
    """Yield how much room there is where files will be written; `places` maps a use to its folder."""
    for use, folder in places.items():
        free = free_bytes(folder)
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        found = f"{free / 1e9:.1f} GB free at {folder}"
        if not os.access(existing, os.W_OK):
            yield Finding(use, "wrong", f"{existing} cannot be written to", "choose another folder")
        elif free < LOW_BYTES:
            yield Finding(use, "wrong", found, "make room or choose another folder")
        elif free < FEW_BYTES:
            yield Finding(use, "note", found, "a run keeps checkpoints and decoded images: make room")
        else:
            yield Finding(use, "ok", found)


def check_cache(folder: Path | None) -> Finding:
    """Return what the image cache in `folder` holds, of how much it may."""
    try:
        limit = limit_bytes()
    except UsageError as error:
        return Finding("image cache size", "wrong", str(error), f"unset {LIMIT_VARIABLE}")
    if folder is None:
        return Finding("image cache size", "note", "no folder to keep one in", "name a folder by --run.cache")
    caches = list_caches(folder)
    size = sum(cache.size for cache in caches)
    found = f"{len(caches)} files, {size / GB:.2f} of at most {limit / GB:g} GB in {folder}"
    if size > limit:
        return Finding("image cache size", "note", found, "crl cache clean removes what no run holds")
    return Finding("image cache size", "ok", found)


def check_threads(cores: int, environment: Mapping[str, str], quota: float | None) -> Finding:
    """Return how many CPU threads will be used.

    Args:
        cores: that this process may use.
        environment: the environment variables.
        quota: cores' worth of time that a container allows; None where it sets no limit.
    """
    asked = environment.get("OMP_NUM_THREADS", "")
    found = f"{cores} cores, OMP_NUM_THREADS {asked or 'not set'}"
    if asked and not (asked.isdecimal() and int(asked) > 0):
        return Finding("threads", "note", found, "OMP_NUM_THREADS should be a number of threads; unset it")
    if quota is not None and quota < cores and not asked:
        share = max(1, int(quota))
        mend = f"export OMP_NUM_THREADS={share}, and give --threads {share}"
        return Finding("threads", "note", f"{found}; the container allows {quota:g} cores' time", mend)
    if asked and int(asked) > cores:
        mend = "threads that share a core wait for each other: unset OMP_NUM_THREADS"
        return Finding("threads", "note", found, mend)
    if asked and int(asked) < cores:
        return Finding("threads", "note", found, "unset OMP_NUM_THREADS to train on every core")
    return Finding("threads", "ok", found)


def check_environment(environment: Mapping[str, str]) -> list[Finding]:
    """Return the variables that change what the toolkit does, or that it ignores on purpose."""
    findings = []
    gradio = sorted(name for name in environment if name.startswith("GRADIO_"))
    if gradio:
        what = f"{', '.join(gradio)}: set, and ignored by crl demo where they would widen access"
        findings.append(Finding("environment", "note", what, "crl demo takes options: crl demo --help"))
    if environment.get("HF_HUB_OFFLINE"):
        what = "HF_HUB_OFFLINE is set: weights are not downloaded"
        findings.append(Finding("environment", "note", what, "unset it, or give weights as files"))
    return findings


def check_weights() -> Finding:
    """Return the weights in the model hub's cache, in torch's and in ./weights, with their sizes."""
    hub, torch_cache, own = hub_cache(), torch_checkpoints(), Path("weights")
    found = [*_in_hub(hub), *_in_folder(torch_cache), *_in_folder(own)]
    if not found:
        what = f"none in {hub}, {torch_cache} and ./{own}"
        mend = (
            "training fetches them where it can; crl doctor --backbone NAME shows how to bring them by hand"
        )
        return Finding("pretrained weights", "note", on_one_line(what), mend)
    told = [on_one_line(f"{name} ({size / 1e6:.1f} MB)") for name, size in found[:LISTED]]
    more = f" and {len(found) - LISTED:,} more" if len(found) > LISTED else ""
    return Finding("pretrained weights", "ok", f"{', '.join(told)}{more}")


def hub_cache() -> Path:
    """Return the model hub's cache folder, as its own library finds it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def torch_checkpoints() -> Path:
    """Return the folder that torch downloads weights to, as torch.hub finds it."""
    caches = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", f"{caches}/torch"))
    with contextlib.suppress(RuntimeError):  # a user without a home: torch leaves the "~" as it is
        home = home.expanduser()
    return home / "hub" / "checkpoints"


def _in_hub(cache: Path) -> Iterator[tuple[str, int]]:
    """Yield name and size of each whole download; its folder is models--OWNER--NAME/snapshots/COMMIT."""
    seen = set()
    for file in sorted(cache.glob("models--*/snapshots/*/*")):
        name = file.parents[2].name.removeprefix("models--").replace("--", "/")
        if file.name in HUB_FILES and file.is_file() and name not in seen:
            seen.add(name)
            yield name, file.stat().st_size


def _in_folder(folder: Path) -> Iterator[tuple[str, int]]:
    for file in sorted(folder.glob("*")):
        if has_weights_name(file) and file.is_file():
            yield str(file), file.stat().st_size

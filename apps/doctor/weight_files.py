"""Which pretrained weights are on this machine, told by the names of files alone: no torch, no network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from apps.doctor.checks import Finding
from finetune.cli.console import on_one_line

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
LISTED = 12


def check_weights() -> Finding:
    """Return the weights in the model hub's cache, in torch's and in ./weights, with their sizes."""
    hub, torch_cache, own = hub_cache(), torch_checkpoints(), Path("weights")
    found = [*_in_hub(hub), *_in_folder(torch_cache), *_in_folder(own)]
    if not found:
        what = f"none in {hub}, {torch_cache} and ./{own}"
        mend = (
            "training fetches them where it can; crl doctor --backbone NAME tells how to bring them by hand"
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
    home = os.environ.get("TORCH_HOME", f"{caches}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


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
        if file.suffix in SUFFIXES and file.is_file():
            yield str(file), file.stat().st_size

"""Where a backbone's weights come from: a user's file, this machine's caches or the network; hashed."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import torch

from finetune.errors import ModelFileError, listing
from finetune.models.names import WEIGHT_SUFFIXES, has_weights_name, weights_fault

WHOLE_NAMES = ("model", "pytorch_model", "model_best")
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
PROBE_SECONDS = 1.5


@dataclass(frozen=True)
class WeightSource:
    """What a run says of the weights it started from.

    `kind` is "none" (random), "file", "hub" or "url"; `location` the file on this machine; `origin` where the
    publisher keeps it; `tag` the pretrained configuration's name; `license` as timm records it, "unknown" for
    a user's own file; `size_bytes` and `sha256` of the file that was read; `layout` how another program named
    its tensors, "" for timm's own names.
    """

    kind: str
    location: str = ""
    origin: str = ""
    tag: str = ""
    license: str = "unknown"
    size_bytes: int = 0
    sha256: str = ""
    layout: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dict for run.json."""
        return asdict(self)

    def describe(self) -> str:
        """Return one line for the user.

        >>> WeightSource("none").describe()
        'weights: none (random initialisation)'
        """
        if self.kind == "none":
            return "weights: none (random initialisation)"
        megabytes = self.size_bytes / 1e6
        layout = f"layout {self.layout}, " if self.layout else ""
        return (
            f"weights: {self.tag or self.kind} from {self.location} ({megabytes:.1f} MB, {layout}"
            f"licence {self.license}, sha256 {self.sha256[:16]})"
        )


@dataclass(frozen=True)
class Published:
    """Where the publisher of a model's weights keeps them: a hub repository, a plain address, or neither."""

    model: str
    tag: str
    hub_id: str | None
    url: str | None
    license: str

    @property
    def name(self) -> str:
        """The model with its pretrained tag, as timm spells it."""
        return f"{self.model}.{self.tag}" if self.tag else self.model

    @property
    def address(self) -> str:
        """The address to fetch from; empty when nothing is published."""
        from huggingface_hub import constants

        if self.hub_id:
            return f"{constants.ENDPOINT}/{self.hub_id}/resolve/main/{HUB_FILES[0]}"
        return self.url or ""

    @property
    def drop_file(self) -> Path:
        """The file that a user without a connection may put in place by hand."""
        suffix = Path(urlsplit(self.address).path).suffix or WEIGHT_SUFFIXES[0]
        return _torch_cache() / f"{self.name}{suffix}"


def locate_weights(weights: str | Path, published: Published) -> WeightSource:
    """Return the file that `weights` stands for, hashed: a path is used as it is, "pretrained" is looked up.

    A path never touches the network. "pretrained" takes a file already on this machine (put there by hand, or
    in the hub's or torch's cache) before it asks the network.

    Raises ModelFileError when there is no such file, when a folder holds no or several fitting ones, or when
    the network cannot be reached (within two seconds, saying what to fetch and where to put it).
    """
    if str(weights) != "pretrained":
        return _source("file", find_local(Path(weights), published.model), published=None)
    cached = find_cached(published)
    if cached is not None:
        return _source("hub" if published.hub_id else "url", cached, published)
    if not published.address:
        raise ModelFileError(
            f"no pretrained weights are published for {published.name}; give --model.weights none to start "
            "from random ones, or the path of a weights file"
        )
    if forbidden_to_connect():
        raise ModelFileError(how_to_fetch(published, "the hub is switched off (HF_HUB_OFFLINE is set)"))
    if not can_reach(published.address):
        host = urlsplit(published.address).netloc
        raise ModelFileError(how_to_fetch(published, f"{host} cannot be reached"))
    return _source("hub" if published.hub_id else "url", _download(published), published)


def find_local(path: Path, model: str) -> Path:
    """Return the weights file that `path` is or holds.

    In a folder the file named after `model` is taken (`resnet18.pth`, `resnet18.a1_in1k.safetensors`,
    `resnet18_mine.bin`), or else the only one called `model`, `pytorch_model` or `model_best`.

    Raises ModelFileError naming what there is when none or several fit.
    """
    if fault := weights_fault(str(path), "model.weights"):
        raise fault
    if path.is_file():
        return path
    files = sorted(file for file in path.iterdir() if file.is_file() and has_weights_name(file))
    named = [file for file in files if re.fullmatch(rf"{re.escape(model)}([._-].*)?", file.stem)]
    fitting = named or [file for file in files if _bare_name(file) in WHOLE_NAMES]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{len(fitting)} files fit {model}" if fitting else f"no file is named after {model}"
    held = [file.name for file in fitting or files] or ["(no weights file at all)"]
    raise ModelFileError(f"{path}: {what}; give the file itself. The folder holds:\n{listing(held)}")


def _bare_name(file: Path) -> str:
    return file.name.removesuffix(".tar").rpartition(".")[0]


def can_reach(address: str, seconds: float = PROBE_SECONDS) -> bool:
    """Return whether the server of an address answers at all within `seconds`, name look-up included."""
    answers: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.build_opener(_StayHere()).open(request, timeout=seconds):
                answers.append(True)
        except urllib.error.HTTPError as error:
            error.close()
            answers.append(True)
        except OSError:
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answers)


class _StayHere(urllib.request.HTTPRedirectHandler):
    """A redirection is an answer already; following it would only cost time."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        """Refuse, so that the opener raises HTTPError with the code."""


def _torch_cache() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def find_cached(published: Published) -> Path | None:
    """Return the file of these weights on this machine, put there by hand or by a download; None without."""
    by_hand = [_torch_cache() / f"{published.name}{suffix}" for suffix in WEIGHT_SUFFIXES]
    if published.url and Path(urlsplit(published.url).path).suffix in WEIGHT_SUFFIXES:
        by_hand.append(_torch_cache() / Path(urlsplit(published.url).path).name)
    hub = []
    if published.hub_id:
        from huggingface_hub import try_to_load_from_cache

        hub = [try_to_load_from_cache(published.hub_id, name) for name in HUB_FILES]
    files = by_hand + [Path(file) for file in hub if isinstance(file, str)]
    return next((file for file in files if file.is_file()), None)


def forbidden_to_connect() -> bool:
    """Return whether the hub is switched off on this machine (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in (
        "1",
        "ON",
        "YES",
        "TRUE",
    )


def _download(published: Published) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    try:
        if not published.hub_id:
            published.drop_file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(published.address, str(published.drop_file), progress=False)
            return published.drop_file
        try:
            return Path(hf_hub_download(published.hub_id, HUB_FILES[0]))
        except EntryNotFoundError:
            return Path(hf_hub_download(published.hub_id, HUB_FILES[1]))
    except (OSError, HfHubHTTPError) as error:
        raise ModelFileError(how_to_fetch(published, f"the download failed ({error})")) from None


def how_to_fetch(published: Published, reason: str) -> str:
    """Return what a user without these weights may fetch, and where to put it; `reason` is a clause."""
    return (
        f"the pretrained weights of {published.name} are not on this machine, and {reason}.\n"
        f"  fetch    {Path(urlsplit(published.address).path).name} of {published.hub_id or published.name}, "
        f"from {published.address}\n"
        f"  put it   at {published.drop_file}\n"
        f"  or pass  its path as weights (--model.weights PATH); --model.weights none starts from random ones"
    )


def _source(kind: str, file: Path, published: Published | None) -> WeightSource:
    with file.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    return WeightSource(
        kind=kind,
        location=str(file),
        origin=published.address if published else "",
        tag=published.name if published else "",
        license=published.license if published else "unknown",
        size_bytes=file.stat().st_size,
        sha256=sha256,
    )

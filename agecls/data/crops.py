"""Marked faces cut out of their images and stored as files, each once, so that a table can list them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from agecls.data.known.findings import KnownFace
from finetune.cli.machine import core_count, user_cache
from finetune.errors import DataError, UsageError, listing
from finetune.images.cache.digests import UNREADABLE, hash_files
from finetune.images.cache.file import map_files
from finetune.images.decode import decode_image
from finetune.runs.files import write_bytes

FORM = 1  # of the stored faces: another way to cut them gets another number, and so other files


def crops_folder(asked: str | None) -> Path:
    """Return where faces that are cut out are kept: the folder asked for, else one in the user's cache.

    Raises UsageError where the user has no cache and names no folder.
    """
    if asked is not None:
        return Path(asked)
    cache = user_cache()
    if cache is None:
        raise UsageError("this user has no cache folder: say where cut-out faces go by --data.crops FOLDER")
    return cache / "faces"


def store_crops(
    root: Path, faces: Sequence[KnownFace], folder: Path, margin: float, name: str
) -> tuple[list[KnownFace], dict[int, str]]:
    """Cut every face that has a box out of its image, and return the faces with the paths of the new files.

    Args:
        root: where the images' paths start.
        faces: the faces; those without a box are left as they are, and so must all be or none.
        folder: where the new files go, and their paths start; a file that is there is not made again. Its
            name holds a hash of the image's bytes, the corners and the margin, so that it is never stale.
        margin: fraction of the sides added on each side.
        name: of the data set, the folder inside `folder`.

    Returns the faces, and the reason for each, by its place, that cannot be cut out. A face of an image that
    is not there keeps a path at which nothing lies.
    """
    files = [root / face.path for face in faces]
    digests = dict(zip(files, hash_files(list(map(str, files)), core_count(), root), strict=True))
    moved = []
    for face, file in zip(faces, files, strict=True):
        key = json.dumps([FORM, digests[file], face.box, margin])
        stem = PurePosixPath(face.path).name.partition(".")[0]
        short = hashlib.sha256(key.encode()).hexdigest()[:16]
        moved.append(face._replace(path=f"{name}/{stem}-{short}.png"))

    def store(place: int) -> str | None:
        target = folder / moved[place].path
        if digests[files[place]].startswith(UNREADABLE) or target.is_file():
            return None
        try:
            write_bytes(target, _png(files[place], faces[place], margin))
        except DataError as error:
            return str(error)
        return None

    if faces:
        (folder / name).mkdir(parents=True, exist_ok=True)
    reasons = map_files(store, range(len(faces)), core_count(), "cutting out faces")
    return moved, {place: why for place, why in enumerate(reasons) if why is not None}


def refuse_bad_crops(faces: Sequence[KnownFace], bad: Mapping[int, str]) -> None:
    """Raise DataError listing the marked faces that could not be cut out."""
    if bad:
        lines = [f"{faces[place].source}: {reason}" for place, reason in bad.items()]
        raise DataError(
            f"{len(bad)} of {len(faces)} marked faces cannot be cut out; correct them, or say "
            f"--data.skip_bad true:\n{listing(lines)}"
        )


def _png(file: Path, face: KnownFace, margin: float) -> bytes:
    import cv2

    from agecls.faces.quadrilateral import cut_marked_face

    assert face.box is not None
    square = cut_marked_face(decode_image(file), face.box, margin)
    done, coded = cv2.imencode(".png", square[..., ::-1])
    assert done, "an image of 8-bit pixels can always be written"
    return coded.tobytes()

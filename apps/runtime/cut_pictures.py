"""Files of which only a box is looked at, as a sequence of pictures opened when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from apps.runtime.views import Picture
from finetune.images.boxes import cut
from finetune.images.decode import decode_image


class CutPictures(Sequence[Picture]):
    """The part of each file inside its box, uint8 (H, W, 3) RGB; none is kept.

    Args:
        files: the pictures' files.
        boxes: x1, y1, x2, y2 in px of each, (N, 4).

    Opening one raises BadImageError, naming the file, for a picture that cannot be read or lacks its box.
    """

    def __init__(self, files: Sequence[Path], boxes: np.ndarray) -> None:
        self.files, self.boxes = files, boxes

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, place: int) -> Picture: ...
    @overload
    def __getitem__(self, place: slice) -> CutPictures: ...
    def __getitem__(self, place: int | slice) -> Picture | CutPictures:
        """Return one opened picture, or a part of the sequence with none opened."""
        if isinstance(place, slice):
            return CutPictures(self.files[place], self.boxes[place])
        return cut(decode_image(self.files[place]), self.boxes[place], str(self.files[place]))

    def __iter__(self) -> Iterator[Picture]:
        """Open one after the other."""
        return (self[place] for place in range(len(self)))


def files_or_cuts(files: Sequence[Path], boxes: np.ndarray | None) -> Sequence[Picture]:
    """Return the files themselves, or where there are boxes the parts inside them."""
    return list(files) if boxes is None else CutPictures(files, boxes)

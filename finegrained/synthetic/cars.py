"""Small made-up data sets in the real on-disk layouts of Stanford Cars, .mat files included: drawn cars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from finegrained.synthetic.datasets import (
    DRAWN,
    DrawnImage,
    LookalikeSummary,
    check_sizes,
    plan,
    summary,
    write_jpeg,
)
from finegrained.synthetic.drawing import Box, draw_car
from finetune.errors import UsageError
from finetune.images.class_names import normalised
from finetune.seeding import numpy_generator

CarsLayout = Literal["S", "O", "K", "S-doubled"]
LabelsAt = Literal["root", "devkit", "none"]
# The order of the list is not that of sorted names, and one name cannot be a folder's.
MODELS = ("Wagon 2012", "Coupe 2010", "C/V Cargo Van 2012", "Sedan 2011", "Beetle 2009", "SUV Crew 2012")
MAT_HEADER = b"MATLAB 5.0 MAT-file, drawn cars"
BOX_FIELDS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def write_lookalike_cars(
    root: Path,
    layout: CarsLayout = "S",
    classes: int = 6,
    per_class: int = 10,
    seed: int = 0,
    *,
    image_size: int = 64,
    test_labels: LabelsAt = "root",
) -> LookalikeSummary:
    """Write drawn cars as Stanford Cars lies on disk in `layout`, under `root`.

    "S" has devkit/, cars_train/ and cars_test/ with a numbering each; "S-doubled" the same with the image
    folders doubled; "O" one folder car_ims/ with another numbering; "K" folders by class and CSV lists.
    `test_labels` says where S has cars_test_annos_withlabels.mat, if anywhere. The third class has "/" in its
    name, and sorted names are not the official order. The rest is as in
    `finegrained.synthetic.datasets.write_lookalike_cub`.

    Raises UsageError for an unknown layout or place, or sizes that cannot be split.
    """
    check_sizes(classes, per_class, image_size)
    if layout not in get_args(CarsLayout) or test_labels not in get_args(LabelsAt):
        known = ", ".join(get_args(CarsLayout)), ", ".join(get_args(LabelsAt))
        raise UsageError(
            f"layout={layout!r} must be one of {known[0]}, test_labels={test_labels!r} of {known[1]}"
        )
    names = tuple(car_name(index) for index in range(classes))
    images = plan(classes, per_class, seed)
    order = numpy_generator(seed, "shuffled", layout[0]).permutation(len(images)).tolist()
    shuffled = [images[place] for place in order]
    files = _file_names(layout, names, shuffled)
    boxes: list[Box] = []
    for place, image, file in zip(order, shuffled, files, strict=True):
        drawing = draw_car(image.label, classes, numpy_generator(seed, "car", place), image_size)
        write_jpeg(root / file, drawing.pixels, grey=image.label == 1 and image.number == 0)
        boxes.append(drawing.box)
    if layout == "O":
        _write_single(root, names, shuffled, files, boxes)
    elif layout == "K":
        _write_csv(root, names, shuffled, files, boxes)
    else:
        _write_devkit(root, names, shuffled, files, boxes, test_labels)
    return summary(root, names, images)


def car_name(index: int) -> str:
    """Return the class name of the drawn car `index`.

    >>> car_name(2), car_name(7)
    ('Drawn C/V Cargo Van 2012', 'Drawn Coupe 2010 Mark 2')
    """
    mark = index // len(MODELS)
    return f"{DRAWN} {MODELS[index % len(MODELS)]}" + (f" Mark {mark + 1}" if mark else "")


def save_mat(file: Path, variables: dict[str, Any]) -> None:
    """Write a .mat file (version 5) without the date that its header usually carries."""
    from scipy.io import savemat

    content = io.BytesIO()
    savemat(content, variables)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(MAT_HEADER.ljust(116) + content.getvalue()[116:])


def struct_array(fields: Sequence[str], rows: Sequence[Sequence[Any]]) -> np.ndarray:
    """Return rows as the 1 x N array of structs that MATLAB would save."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in fields])
    for place, row in enumerate(rows):
        array[0, place] = tuple(row)
    return array


def cell_array(texts: Sequence[str]) -> np.ndarray:
    """Return strings as the 1 x N cell array that MATLAB would save."""
    array = np.empty((1, len(texts)), dtype=object)
    array[0, :] = texts
    return array


def _file_names(layout: str, names: tuple[str, ...], images: Sequence[DrawnImage]) -> list[str]:
    """Return each image's path: numbered through in O and K, within its part in S."""
    count = {"train": 0, "test": 0}
    files = []
    for number, image in enumerate(images, start=1):
        count[image.split] += 1
        part = f"cars_{image.split}"
        files.append(
            {
                "O": f"car_ims/{number:06d}.jpg",
                "S": f"{part}/{count[image.split]:05d}.jpg",
                "S-doubled": f"{part}/{part}/{count[image.split]:05d}.jpg",
                "K": f"car_data/car_data/{image.split}/{normalised(names[image.label])}/{number:05d}.jpg",
            }[layout]
        )
    return files


def _matlab_box(box: Box) -> tuple[int, int, int, int]:
    """Return the box as the files count: from 1, both edges inside."""
    return int(box[0]) + 1, int(box[1]) + 1, int(box[2]), int(box[3])


def _write_single(
    root: Path,
    names: tuple[str, ...],
    images: Sequence[DrawnImage],
    files: Sequence[str],
    boxes: Sequence[Box],
) -> None:
    rows = [
        (file, *_matlab_box(box), image.label + 1, int(image.split == "test"))
        for image, file, box in zip(images, files, boxes, strict=True)
    ]
    fields = ("relative_im_path", *BOX_FIELDS, "class", "test")
    variables = {"annotations": struct_array(fields, rows), "class_names": cell_array(names)}
    save_mat(root / "cars_annos.mat", variables)


def _write_devkit(
    root: Path,
    names: tuple[str, ...],
    images: Sequence[DrawnImage],
    files: Sequence[str],
    boxes: Sequence[Box],
    test_labels: str,
) -> None:
    save_mat(root / "devkit/cars_meta.mat", {"class_names": cell_array(names)})
    listed = list(zip(images, files, boxes, strict=True))
    labelled = {
        part: [
            (*_matlab_box(box), image.label + 1, Path(file).name)
            for image, file, box in listed
            if image.split == part
        ]
        for part in ("train", "test")
    }
    fields = (*BOX_FIELDS, "class", "fname")
    save_mat(root / "devkit/cars_train_annos.mat", {"annotations": struct_array(fields, labelled["train"])})
    bare = [(*row[:4], row[5]) for row in labelled["test"]]
    save_mat(root / "devkit/cars_test_annos.mat", {"annotations": struct_array((*BOX_FIELDS, "fname"), bare)})
    if test_labels != "none":
        folder = root if test_labels == "root" else root / "devkit"
        save_mat(
            folder / "cars_test_annos_withlabels.mat",
            {"annotations": struct_array(fields, labelled["test"])},
        )


def _write_csv(
    root: Path,
    names: tuple[str, ...],
    images: Sequence[DrawnImage],
    files: Sequence[str],
    boxes: Sequence[Box],
) -> None:
    (root / "names.csv").write_text("\n".join(names) + "\n", encoding="utf-8")
    for part in ("train", "test"):
        lines = [
            ",".join(map(str, (Path(file).name, *_matlab_box(box), image.label + 1)))
            for image, file, box in zip(images, files, boxes, strict=True)
            if image.split == part
        ]
        (root / f"anno_{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

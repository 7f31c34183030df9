"""Read CIFAR-10 and CIFAR-100: which of the two, in which layout, and the rules that both layouts share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from generalcls.data.cifar_batches import Batches, read_batches
from generalcls.data.cifar_parquet import read_parquet_parts
from generalcls.data.image_set import Reading, Whole
from generalcls.data.locate import Layout, find_place

CifarName = Literal["cifar10", "cifar100"]
PARQUET = ("train-00000-of-00001.parquet", "test-00000-of-00001.parquet")
_CIFAR10 = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""

CIFAR10_CLASSES = tuple(_CIFAR10.split())
CIFAR100_CLASSES = tuple(_CIFAR100.split())


@dataclass(frozen=True)
class Cifar:
    """What tells CIFAR-10 from CIFAR-100 on disk.

    Args:
        title: the data set's name.
        class_names: in the order of the labels.
        labels: the labels' key in a python batch.
        train: the training batches' files.
        test: the test batch's file.
        meta: the file of class names.
        names: the class names' key in it.
        column: the labels' column in parquet.
        layouts: how it may lie on disk.
    """

    title: str
    class_names: tuple[str, ...]
    labels: str
    train: tuple[str, ...]
    test: str
    meta: str
    names: str
    column: str
    layouts: tuple[Layout, Layout]

    @property
    def source(self) -> str:
        """Where it comes from."""
        return (
            f"https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky), or torchvision.datasets."
            f"{self.title.replace('-', '')}(root, download=True)"
        )


CIFARS: Mapping[CifarName, Cifar] = {
    "cifar10": Cifar(
        "CIFAR-10",
        CIFAR10_CLASSES,
        "labels",
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        "label_names",
        "label",
        (
            Layout(
                "python batches",
                ("cifar-10-batches-py", ""),
                ("data_batch_[1-5]", "test_batch"),
                "cifar-10-batches-py/data_batch_1 to _5, test_batch, batches.meta "
                "(cifar-10-python.tar.gz, unpacked)",
            ),
            Layout("parquet", ("plain_text", ""), PARQUET, "plain_text/" + " and ".join(PARQUET)),
        ),
    ),
    "cifar100": Cifar(
        "CIFAR-100",
        CIFAR100_CLASSES,
        "fine_labels",
        ("train",),
        "test",
        "meta",
        "fine_label_names",
        "fine_label",
        (
            Layout(
                "python batches",
                ("cifar-100-python", ""),
                ("train",),
                "cifar-100-python/train, test and meta (cifar-100-python.tar.gz, unpacked)",
            ),
            Layout("parquet", ("cifar100", "plain_text", ""), PARQUET, "cifar100/" + " and ".join(PARQUET)),
        ),
    ),
}


def read_cifar(
    name: CifarName,
    root: str | None,
    checksums: Callable[[], Mapping[str, str]],
    *,
    subset: bool = False,
) -> Reading:
    """Return the 50,000 training and 10,000 test images of CIFAR-10 or CIFAR-100, RGB, 32 x 32.

    CIFAR-100's labels are the 100 fine ones. The official batches are preferred to parquet where both lie
    there, since parquet copies may have been compressed with losses: a note then says so, and their test part
    is not the published one.

    Args:
        name: cifar10 or cifar100.
        root: a folder with the batches or the parquet files, its parent or its child.
        checksums: returns the batches' published MD5 by file name; not called for parquet.
        subset: accept files in these formats that are not the published ones.

    Raises:
        DataError: a file that is missing, damaged, cut short or another than the published one.
    """
    cifar = CIFARS[name]
    place = find_place(cifar.title, root, cifar.layouts, cifar.source)
    whole = Whole(cifar.title, 50_000, 10_000, cifar.source, subset)
    if place.layout == "parquet":
        files = (place.folder / PARQUET[0], place.folder / PARQUET[1])
        copies = read_parquet_parts(files, cifar.column, cifar.class_names, cifar.source)
        train, test, exact = copies.train, copies.test, not copies.lossy_test
        more = sorted({file.name for file in place.folder.glob("*.parquet")} - set(PARQUET))
        told = (*copies.notes, *([f"other parquet files are not read: {', '.join(more)}"] if more else []))
        strangers: tuple[str, ...] = ()
    else:
        batches = Batches(
            place.folder, cifar.train, cifar.test, cifar.meta, cifar.labels, cifar.names, cifar.class_names
        )
        train, test, strangers = read_batches(batches, checksums(), subset=subset)
        told, exact = (), True
    notes = whole.difference(len(train), len(test), strangers)
    official = exact and not notes
    return Reading(train, test, cifar.class_names, official, notes=(*place.notes, *told, *notes))

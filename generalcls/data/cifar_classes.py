"""The classes of CIFAR-10 and the fine classes of CIFAR-100, in the order of their labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.errors import DataError

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


def check_class_names(found: object, wanted: Sequence[str], file: Path) -> None:
    """Raise DataError, naming the first difference, unless a file lists the classes in the official order."""
    if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
        told = f"its class names are no list of texts but {found!r:.60}"
    elif list(found) == list(wanted):
        return
    else:
        pairs = enumerate(zip(found, wanted, strict=False))
        odd = (f"label {at} is {here}, not {there}" for at, (here, there) in pairs if here != there)
        told = next(odd, f"{len(found)} classes, not {len(wanted)}")
    raise DataError(f"{file} does not list the official classes in their order: {told}; fetch it again")

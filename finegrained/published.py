"""Numbers that others reported on CUB-200-2011 and Stanford Cars: beside measured ones, never among them."""

from __future__ import annotations

from typing import NamedTuple

PAPER = (
    "Zhang et al., Competing Ratio Loss for Discriminative Multi-class Image Classification, 2020, Table IX"
)

# Images of the official test part and classes: what a run must have been tested on to stand beside these.
FULL_TEST = {"cub": (5794, 200), "cars": (8041, 196)}


class Reported(NamedTuple):
    """A published row: method, network, loss, top-1 (%) on CUB and Cars; `rerun` by that paper's authors.

    `rerun` is None where the paper repeats a score from the method's own paper without running it.
    """

    method: str
    network: str
    loss: str
    cub: float
    cars: float
    rerun: tuple[float, float] | None = None


# Single runs without spread. B-CNN's 91.3 on Cars is of its two-network form; one VGG-16 reaches less.
TABLE_IX = (
    Reported("B-CNN", "VGG", "CE", 84.1, 91.3, (84.06, 91.27)),
    Reported("RA-CNN", "VGG-19", "CE", 85.3, 92.5),
    Reported("OPAM", "VGG-16", "CE", 85.8, 92.2),
    Reported("Kernel pooling", "VGG-16", "CE", 86.2, 92.4),
    Reported("Kernel pooling", "ResNet-50", "CE", 84.7, 91.1),
    Reported("MA-CNN", "VGG-19", "CE", 86.5, 92.8),
    Reported("DFL", "ResNet-50", "CE", 87.4, 93.8, (87.14, 93.79)),
    Reported("DCL", "ResNet-50", "CE", 87.8, 94.5, (87.69, 94.39)),
    Reported("B-CNN", "VGG", "CRL", 84.27, 91.44),
    Reported("DFL", "ResNet-50", "CRL", 87.52, 93.95),
    Reported("DCL", "ResNet-50", "CRL", 87.84, 94.60),
)

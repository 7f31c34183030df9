"""Numbers that others reported on CUB-200-2011 and Stanford Cars: beside measured ones, never among them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

PAPER = (
    "Zhang et al., Competing Ratio Loss for Discriminative Multi-class Image Classification, 2020, Table IX"
)

# Images of the official test part and classes: what a run must have been tested on to stand beside these.
FULL_TEST = {"cub": (5794, 200), "cars": (8041, 196)}

# `list_hash` of the test images that CUB-200-2011's own lists name (Wah et al., 2011). Stanford Cars has none
# here: its layouts name the files differently, so its counts alone are checked.
TEST_LISTS = {"cub": "0c4e769f00133fa16432b0ecb6ceb10a682ec0d2325c09187911422ee723b988"}


def list_hash(paths: Iterable[str]) -> str:
    """Return the SHA-256 of image names as CUB's images.txt has them, sorted, a line each; "images/" goes.

    >>> list_hash(["images/b.jpg", "a.jpg"]) == list_hash(["a.jpg", "b.jpg"])
    True
    """
    names = sorted(path.removeprefix("images/") for path in paths)
    return hashlib.sha256("\n".join(names).encode()).hexdigest()


class Reported(NamedTuple):
    """A published row: method, network, loss, top-1 (%) on CUB and Cars; `rerun` by that paper's authors.

    `rerun` is None where the paper repeats a score from the method's own paper without running it.
    `on_cars` is what must be said of the network of the Cars score.
    """

    method: str
    network: str
    loss: str
    cub: float
    cars: float
    rerun: tuple[float, float] | None = None
    on_cars: str = ""


# Single runs without spread. B-CNN's Cars scores are Lin, RoyChowdhury, Maji, "Bilinear CNNs for Fine-grained
# Visual Recognition", 2015: 91.3 of two networks, 90.6 of one VGG-16.
TWO_NETWORKS = "91.3 is the two-network model; one VGG-16 is reported at 90.6"
TABLE_IX = (
    Reported("B-CNN", "VGG", "CE", 84.1, 91.3, (84.06, 91.27), TWO_NETWORKS),
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

METHODS = {"bilinear": "B-CNN", "kernel_pooling": "Kernel pooling", "dfl": "DFL", "dcl": "DCL"}
NETWORKS = {"vgg16": ("VGG", "VGG-16"), "vgg19": ("VGG-19",), "resnet50": ("ResNet-50",)}
ARMS = {"CE": "cel", "CRL": "crl"}


def top1_by_arm(head: str, backbone: str, data_set: str) -> dict[str, str]:
    """Return the top-1 accuracies reported of this head on this network, with their source, by a study's arm.

    >>> top1_by_arm("dcl", "resnet50.tv_in1k", "cars")["crl"]
    '94.60 (CRL paper, Table IX, ResNet-50, one run)'
    """
    method, networks = METHODS.get(head), NETWORKS.get(backbone.partition(".")[0], ())
    rows = [row for row in TABLE_IX if row.method == method and row.network in networks]
    return {ARMS[row.loss]: _with_source(row, data_set == "cars") for row in rows}


def _with_source(row: Reported, on_cars: bool) -> str:
    score = row.cars if on_cars else row.cub
    rerun = f", {row.rerun[on_cars]:.2f} when rerun there" if row.rerun else ""
    return f"{score:.2f} (CRL paper, Table IX, {row.network}, one run{rerun})"

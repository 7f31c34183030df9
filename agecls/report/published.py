"""Numbers that others reported on Adience, to stand beside measured ones and never among them."""

from __future__ import annotations

from typing import NamedTuple

PAPER = (
    "Zhang et al., Competing Ratio Loss for Discriminative Multi-class Image Classification, 2020, Table X"
)


class Reported(NamedTuple):
    """A published result: network, what it was pretrained on, loss, exact and one-off accuracy (%)."""

    network: str
    pretraining: str
    loss: str
    exact: float
    one_off: float


# Single runs without spread; neither folds nor seeds, label policy or test images are reported.
TABLE_X = (
    Reported("ResNet-34", "none", "NLLR", 55.27, 89.30),
    Reported("ResNet-34", "none", "CE", 56.32, 90.99),
    Reported("ResNet-34", "none", "CRL", 57.05, 91.26),
    Reported("ResNet-34", "ImageNet", "CE", 61.09, 92.06),
    Reported("ResNet-34", "ImageNet", "CRL", 61.52, 92.65),
    Reported("ResNet-101", "ImageNet", "CE", 62.21, 92.18),
    Reported("ResNet-101", "ImageNet", "CRL", 62.73, 92.79),
    Reported("ResNet-152", "ImageNet", "CE", 62.85, 92.87),
    Reported("ResNet-152", "ImageNet", "CRL", 63.26, 93.25),
)

NETWORKS = {"resnet34": "ResNet-34", "resnet101": "ResNet-101", "resnet152": "ResNet-152"}
ARMS = {"NLLR": "nllr", "CE": "cel", "CRL": "crl"}


def accuracy_by_arm(backbone: str, pretrained: bool) -> dict[str, str]:
    """Return the exact accuracies reported of this network, with their source, by a study's arm.

    >>> accuracy_by_arm("resnet101.a1h_in1k", True)["crl"]
    '62.73 (CRL paper, Table X, one run)'
    """
    start = "ImageNet" if pretrained else "none"
    network = NETWORKS.get(backbone.partition(".")[0])
    rows = [row for row in TABLE_X if (row.network, row.pretraining) == (network, start)]
    return {ARMS[row.loss]: f"{row.exact:.2f} (CRL paper, Table X, one run)" for row in rows}

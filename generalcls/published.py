"""What the two papers report on general data sets, number by number: never a score of this toolkit's.

CRL is Zhang, Guo, Wang, Chang, Zhao, Ma, Han, "Competing Ratio Loss for Discriminative Multi-class Image
Classification" (2020); NLLR is Zhu, Yao, Jiang, Yu, "Negative Log Likelihood Ratio Loss for Deep Neural
Network Classification", arXiv 1804.10690 (2018). Except where ten runs are named, each number is one training
without a spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from core_losses import loss_named

Unit = Literal["error %", "top-5 error %", "accuracy %", "F1 %"]
CRL, NLLR = "CRL paper", "NLLR paper"
EPOCHS_300 = "300 epochs"


@dataclass(frozen=True)
class Published:
    """One number of a table.

    `data` and `network` are this toolkit's names, `loss` the name of the arm; `spread` and `setting` are
    given in words, empty where the paper reports none.
    """

    data: str
    network: str
    loss: str
    value: float
    unit: Unit
    table: str
    paper: str
    setting: str = ""
    spread: str = ""

    @property
    def text(self) -> str:
        """The value for the column beside measured accuracies; an error is turned into an accuracy first.

        >>> PUBLISHED[6].text
        '93.37 (error 6.63; CRL paper, Table I, 300 epochs)'
        """
        tables = f"{'Tables' if ' and ' in self.table else 'Table'} {self.table}"
        told = [f"{self.paper}, {tables}", self.setting, self.spread]
        source = ", ".join(part for part in told if part)
        if self.unit == "accuracy %":
            return f"{self.value:.2f} ({source})"
        if self.unit == "F1 %":
            return f"F1 {self.value:.2f} ({source})"
        kind = "top-5 " if self.unit == "top-5 error %" else ""
        return f"{kind}{100 - self.value:.2f} (error {self.value:.2f}; {source})"


GRID_ALPHAS = (0, 1, 1.5, 2)
GRID_BETAS = (0.25, 0.5, 0.75, 1, 1.25)
# CRL Table I, test error in %: cross-entropy (beta 0), then a row per beta, a column per alpha.
GRIDS: Mapping[str, tuple[float, tuple[tuple[float, ...], ...]]] = {
    "cifar10": (
        6.63,
        (
            (7.44, 6.48, 6.33, 6.44),
            (7.79, 6.18, 6.08, 6.23),
            (8.31, 6.28, 6.07, 6.18),
            (8.55, 6.41, 5.99, 6.1),
            (7.8, 6.24, 6.04, 6.57),
        ),
    ),
    "cifar100": (
        27.87,
        (
            (28.04, 28.14, 27.39, 26.78),
            (28.79, 27.56, 27.93, 27.18),
            (30.01, 27.53, 27.36, 27.47),
            (29.67, 27.34, 27.26, 27.54),
            (29.78, 28.03, 27.78, 28.01),
        ),
    ),
}
# CRL Table III, test error in %: NLLR, cross-entropy, CRL.
ERRORS: Mapping[str, Mapping[str, tuple[float, float, float]]] = {
    "cifar10": {
        "vgg16_bn": (8.44, 6.32, 6.27),
        "vgg19_bn": (8.33, 6.28, 6.06),
        "resnet34": (8.55, 6.63, 5.99),
        "resnet50": (8.39, 5.90, 5.60),
        "resnet101": (8.06, 5.49, 5.37),
        "resnet164": (6.48, 4.76, 4.36),
        "densenet40": (6.46, 5.32, 5.26),
    },
    "cifar100": {
        "vgg16_bn": (28.02, 26.97, 26.63),
        "vgg19_bn": (27.89, 26.8, 26.24),
        "resnet34": (29.67, 27.87, 27.34),
        "resnet50": (27.26, 25.33, 25.23),
        "resnet101": (26.77, 24.27, 23.34),
        "resnet164": (25.02, 22.26, 21.94),
        "densenet40": (25.45, 24.64, 24.22),
        "mobilenetv2": (24.94, 23.75, 23.16),
    },
}
# CRL Table VI, ResNet-164, test error in %: CIFAR-10, CIFAR-100.
RIVALS: Mapping[str, tuple[float, float]] = {
    "cel": (5.27, 22.26),
    "nllr": (6.48, 25.02),
    "focal": (4.62, 22.13),
    "lsoftmax": (4.71, 22.21),
    "asoftmax": (4.64, 22.12),
    loss_named("DualCrossEntropyLoss"): (4.58, 22.43),
    loss_named("TamingCrossEntropyLoss"): (5.46, 23.93),
    "crl": (4.36, 21.94),
}
# Where the papers disagree with themselves or with others; reported beside the numbers.
INCONSISTENCIES: Mapping[tuple[str, str, str], str] = {
    ("cifar100", "resnet34", "crl"): (
        "the paper has 27.26 in Table I and 27.34 in Table III, which Table I gives to alpha 1, beta 1"
    ),
    ("cifar10", "resnet164", "cel"): (
        "the paper has 4.76 in Table III, 5.27 in Tables VI and VII, and 5.38 as the mean of ten runs in "
        "Table VIII"
    ),
    ("mnist", "mlp", "cel"): "more error than other published perceptrons; the paper reports no sizes",
    ("mnist", "mlp", "crl"): "more error than other published perceptrons; the paper reports no sizes",
}


def reported(data: str, network: str) -> dict[str, str]:
    """Return what the papers report for a data set and a network, in words, by the arm's name.

    Equal numbers of several tables are given once; where the papers contradict themselves, the text says so.

    Args:
        data: name of the data set.
        network: name of the network.

    Returns:
        Texts by arm; empty where neither paper reports on the pair.

    >>> reported("cifar10", "resnet34")["crl"]
    '94.01 (error 5.99; CRL paper, Tables I and III, 300 epochs)'
    """
    texts: dict[str, list[str]] = {}
    for entry in _merged([entry for entry in PUBLISHED if (entry.data, entry.network) == (data, network)]):
        texts.setdefault(entry.loss, []).append(entry.text)
    for (of_data, of_network, loss), told in INCONSISTENCIES.items():
        if (of_data, of_network) == (data, network):
            texts[loss].append(f"inconsistent: {told}" if "Table" in told else told)
    return {loss: "; ".join(parts) for loss, parts in texts.items()}


def _merged(entries: Sequence[Published]) -> list[Published]:
    """Return the entries, those that differ in nothing but the table as one."""
    by_value: dict[Published, list[str]] = {}
    for entry in entries:
        by_value.setdefault(replace(entry, table=""), []).append(entry.table)
    return [replace(entry, table=" and ".join(tables)) for entry, tables in by_value.items()]


def _nllr_table() -> Iterator[Published]:
    for data, network, values, settings in (
        ("mnist", "mnist_cnn", (99.28, 99.27, 99.28), ("", "", "")),
        ("cifar10", "cifar_cnn", (79.92, 80.01, 86.01), ("100 epochs", "100 epochs", "500 epochs")),
    ):
        for loss, value, setting in zip(
            ("cel", loss_named("ExtendedBCELoss"), "nllr"), values, settings, strict=True
        ):
            yield Published(data, network, loss, value, "accuracy %", "I", NLLR, setting)


def _grid_table() -> Iterator[Published]:
    for data, (baseline, rows) in GRIDS.items():
        yield Published(data, "resnet34", "cel", baseline, "error %", "I", CRL, EPOCHS_300)
        for beta, row in zip(GRID_BETAS, rows, strict=True):
            for alpha, value in zip(GRID_ALPHAS, row, strict=True):
                default = (alpha, beta) == (1.5, 1)
                loss = "crl" if default else f"crl-alpha{alpha:g}-beta{beta:g}"
                yield Published(data, "resnet34", loss, value, "error %", "I", CRL, EPOCHS_300)


def _small_tables() -> Iterator[Published]:
    for setting, values in (("100 epochs", (80.19, 83.85, 84.29)), ("500 epochs", (85.31, 85.95, 86.59))):
        for loss, value in zip(("nllr", "cel", "crl"), values, strict=True):
            yield Published("cifar10", "cifar_cnn", loss, value, "accuracy %", "II", CRL, setting)
    for network, loss, error, f1 in (
        ("logistic", "cel", 9.20, 90.71),
        ("logistic", "crl", 8.60, 91.3),
        ("mlp", "cel", 9.10, 90.77),
        ("mlp", "crl", 8.85, 91.03),
    ):
        yield Published("mnist", network, loss, error, "error %", "IV", CRL)
        yield Published("mnist", network, loss, f1, "F1 %", "IV", CRL)


def _deep_tables() -> Iterator[Published]:
    for data, networks in ERRORS.items():
        for network, errors in networks.items():
            for loss, value in zip(("nllr", "cel", "crl"), errors, strict=True):
                yield Published(data, network, loss, value, "error %", "III", CRL, EPOCHS_300)
    for loss, pair in RIVALS.items():
        for data, value in zip(("cifar10", "cifar100"), pair, strict=True):
            yield Published(data, "resnet164", loss, value, "error %", "VI", CRL, EPOCHS_300)
    for loss, value in (("nllr", 2.38), ("cel", 2.04), ("crl", 1.88)):
        yield Published("svhn", "resnet164", loss, value, "error %", "VII", CRL, "40 epochs")
    for loss, top1, top5 in (("cel", 27.09, 8.95), ("crl", 26.94, 8.69)):
        yield Published("imagenet", "timm/resnet34", loss, top1, "error %", "VII", CRL, "90 epochs")
        yield Published("imagenet", "timm/resnet34", loss, top5, "top-5 error %", "VII", CRL, "90 epochs")


def _repeated_tables() -> Iterator[Published]:
    for loss, value, spread in (
        ("cel", 76.46, "ten runs, +- 0.28"),
        ("crl", 76.79, "ten runs, +- 0.20, paired t-test against cross-entropy p = .00136"),
    ):
        yield Published("cifar100", "mobilenetv2", loss, value, "accuracy %", "V", CRL, EPOCHS_300, spread)
    for loss, value, variance in (("nllr", 6.61, 0.127), ("cel", 5.38, 0.071), ("crl", 4.48, 0.073)):
        spread = f"mean of ten runs, variance {variance}"
        yield Published("cifar10", "resnet164", loss, value, "error %", "VIII", CRL, EPOCHS_300, spread)


PUBLISHED: tuple[Published, ...] = (
    *_nllr_table(),
    *_grid_table(),
    *_small_tables(),
    *_deep_tables(),
    *_repeated_tables(),
)

__all__ = ["CRL", "INCONSISTENCIES", "NLLR", "PUBLISHED", "Published", "reported"]

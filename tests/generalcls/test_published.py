"""Published numbers: complete by table, in the right cells, told with source and contradictions."""

from __future__ import annotations

from collections import Counter

import pytest

from finetune.experiments.study.arms import build_arms, grid_arm
from generalcls.networks.registry import NETWORKS
from generalcls.published import CRL, INCONSISTENCIES, NLLR, PUBLISHED, reported


def test_every_table_is_whole() -> None:
    counted = Counter((entry.paper, entry.table) for entry in PUBLISHED)
    assert counted == {
        (NLLR, "I"): 2 * 3,  # data sets x losses
        (CRL, "I"): 2 * (1 + 4 * 5),  # data sets x (cross-entropy + alphas x betas)
        (CRL, "II"): 2 * 3,  # budgets x losses
        (CRL, "III"): (7 + 8) * 3,  # networks of CIFAR-10 and CIFAR-100 x losses
        (CRL, "IV"): 2 * 2 * 2,  # networks x losses x (error, F1)
        (CRL, "V"): 2,
        (CRL, "VI"): 8 * 2,  # losses x data sets
        (CRL, "VII"): 3 + 2 * 2,  # SVHN; ImageNet x (top-1, top-5)
        (CRL, "VIII"): 3,
    }


def test_sums_of_the_tables_are_those_of_the_papers() -> None:
    """A mistyped digit moves a sum; these were added up from the printed rows."""

    def total(table: str, data: str, loss: str = "") -> float:
        rows = [e for e in PUBLISHED if e.paper == CRL and e.table == table and e.data == data]
        return round(sum(e.value for e in rows if loss in ("", e.loss)), 2)

    assert [total("III", "cifar10", loss) for loss in ("nllr", "cel", "crl")] == [54.71, 40.7, 38.91]
    assert [total("III", "cifar100", loss) for loss in ("nllr", "cel", "crl")] == [215.02, 201.89, 198.1]
    assert [total("VI", data) for data in ("cifar10", "cifar100")] == [40.12, 182.04]


@pytest.mark.parametrize(
    ("data", "by_alpha", "by_beta"),
    [
        ("cifar10", [39.89, 31.59, 30.51, 31.52], [26.69, 26.28, 26.84, 27.05, 26.65]),
        ("cifar100", [146.29, 138.6, 137.72, 136.98], [110.35, 111.46, 112.37, 111.81, 113.6]),
    ],
)
def test_rows_and_columns_of_the_grid_sum_up(data: str, by_alpha: list[float], by_beta: list[float]) -> None:
    told = {entry.loss: entry.value for entry in PUBLISHED if (entry.data, entry.table) == (data, "I")}
    grid = [[told[grid_arm(alpha, beta)] for alpha in (0, 1, 1.5, 2)] for beta in (0.25, 0.5, 0.75, 1, 1.25)]
    assert [sum(column) for column in zip(*grid, strict=True)] == pytest.approx(by_alpha)
    assert [sum(row) for row in grid] == pytest.approx(by_beta)


def test_networks_and_arms_have_names_of_this_toolkit() -> None:
    arms = build_arms(
        ("nllr", "crl", "focal", "cce", "dualce", "tce", "lsoftmax", "asoftmax"), controls=False, grid=True
    )
    assert {entry.network for entry in PUBLISHED} <= {*NETWORKS, "timm/resnet34"}
    assert {entry.loss for entry in PUBLISHED} == {arm.name for arm in arms}
    assert {entry.data for entry in PUBLISHED} == {"mnist", "cifar10", "cifar100", "svhn", "imagenet"}


def test_the_grid_lies_as_printed() -> None:
    told = {entry.loss: entry.value for entry in PUBLISHED if (entry.data, entry.table) == ("cifar100", "I")}
    assert told[grid_arm(0, 0.75)] == 30.01
    assert told[grid_arm(2, 0.25)] == 26.78
    assert told[grid_arm(1.5, 1)] == told["crl"] == 27.26
    assert told[grid_arm(1.5, 0)] == told["cel"] == 27.87


def test_nllr_is_the_grids_alpha_0_beta_1() -> None:
    for data in ("cifar10", "cifar100"):
        rows = {
            entry.loss: entry.value
            for entry in PUBLISHED
            if (entry.data, entry.network) == (data, "resnet34")
        }
        assert rows["nllr"] == rows[grid_arm(0, 1)]


@pytest.mark.parametrize(
    ("data", "network", "arm", "told"),
    [
        ("mnist", "mnist_cnn", "cce", "99.27 (NLLR paper, Table I)"),
        (
            "cifar10", "cifar_cnn", "nllr",
            "86.01 (NLLR paper, Table I, 500 epochs); 80.19 (CRL paper, Table II, 100 epochs); "
            "85.31 (CRL paper, Table II, 500 epochs)",
        ),
        ("cifar10", "resnet34", "cel", "93.37 (error 6.63; CRL paper, Tables I and III, 300 epochs)"),
        (
            "mnist", "logistic", "crl",
            "91.40 (error 8.60; CRL paper, Table IV); F1 91.30 (CRL paper, Table IV)",
        ),
        ("svhn", "resnet164", "crl", "98.12 (error 1.88; CRL paper, Table VII, 40 epochs)"),
        (
            "imagenet", "timm/resnet34", "cel",
            "72.91 (error 27.09; CRL paper, Table VII, 90 epochs); "
            "top-5 91.05 (error 8.95; CRL paper, Table VII, 90 epochs)",
        ),
    ],
)  # fmt: skip
def test_texts_name_table_paper_and_setting(data: str, network: str, arm: str, told: str) -> None:
    assert reported(data, network)[arm] == told


def test_contradictions_are_told() -> None:
    assert "27.26 in Table I and 27.34 in Table III" in reported("cifar100", "resnet34")["crl"]
    assert "5.27 in Tables VI and VII" in reported("cifar10", "resnet164")["cel"]
    baseline = reported("cifar10", "resnet164")["cel"]
    assert all(number in baseline for number in ("4.76", "5.27", "5.38", "variance 0.071", "inconsistent"))
    assert "other published perceptrons" in reported("mnist", "mlp")["crl"]
    for data, network, arm in INCONSISTENCIES:
        assert INCONSISTENCIES[data, network, arm] in reported(data, network)[arm]


def test_spreads_are_told() -> None:
    assert "ten runs, +- 0.20, paired t-test" in reported("cifar100", "mobilenetv2")["crl"]


def test_nothing_is_told_of_what_neither_paper_trained() -> None:
    assert reported("digits", "mlp") == reported("mnist", "resnet34") == {}

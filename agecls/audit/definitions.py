"""The definitions of the age audit as formulas: true and predicted ages in, numbers out; no interval here.

True ages count in completed years. Rates are fractions; what has no image is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FEWEST_IMAGES = 10  # of a cell that the mean over cells takes in
ADULT_YEARS = 12  # from the legal age on: 18 to 30
MINOR_YEARS = 4  # below the legal age: 14 to 17
CHILD_BAND, YOUNGER, OLDER = (13, 16), (8, 12), (17, 22)
SCORES_AT = (3, 5)  # years of the cumulative scores


@dataclass(frozen=True)
class Cell:
    """Images of one sex and one integer age: how many, their mean absolute and mean signed error in years."""

    sex: str
    age: int
    images: int
    mae: float
    bias: float

    @property
    def averaged(self) -> bool:
        """Whether the cell has images enough to be averaged."""
        return self.images >= FEWEST_IMAGES


def in_band(years: np.ndarray, band: tuple[int, int]) -> np.ndarray:
    """Return which completed years lie in a band, both ends included, bool (N,)."""
    return np.asarray((years >= band[0]) & (years <= band[1]))


def minor_band(legal: int) -> tuple[int, int]:
    """Return the ages just below a legal age.

    >>> minor_band(18), adult_band(18)
    ((14, 17), (18, 30))
    """
    return legal - MINOR_YEARS, legal - 1


def adult_band(legal: int) -> tuple[int, int]:
    """Return the ages from a legal age on that a challenge age burdens."""
    return legal, legal + ADULT_YEARS


def error_cells(
    years: np.ndarray, age: np.ndarray, predicted: np.ndarray, sex: np.ndarray, band: tuple[int, int]
) -> list[Cell]:
    """Return the cells (sex x integer age) of a band that hold an image, by sex and age.

    Args:
        years: completed years, int (N,).
        age: true ages, float (N,).
        predicted: predicted ages, float (N,).
        sex: (N,) "m", "f" or ""; where every one is "", cells go by age alone, else "" is in no cell.
        band: the first and the last age.
    """
    known = sorted(set(sex.tolist()) - {""}) or [""]
    cells = []
    for name in known:
        for year in range(band[0], band[1] + 1):
            rows = (sex == name) & (years == year)
            if rows.any():
                errors = predicted[rows] - age[rows]
                cells.append(
                    Cell(name, year, int(rows.sum()), float(np.abs(errors).mean()), float(errors.mean()))
                )
    return cells


def mean_over_cells(cells: list[Cell]) -> float | None:
    """Return MAE_N: the mean of the cells' mean absolute errors, cells below ten images left out."""
    averaged = [cell.mae for cell in cells if cell.averaged]
    return float(np.mean(averaged)) if averaged else None


def within(age: np.ndarray, predicted: np.ndarray, k: float) -> np.ndarray:
    """Return which images the cumulative score CS@k counts: |predicted - true| <= k years, bool (N,)."""
    return np.asarray(np.abs(predicted - age) <= k)


def appears(predicted: np.ndarray, challenge: int) -> np.ndarray:
    """Return who is taken for at least the challenge age, bool (N,)."""
    return np.asarray(predicted >= challenge)


def severity(age: np.ndarray, predicted: np.ndarray, legal: int, challenge: int) -> dict[str, float | None]:
    """Return mean and 95th percentile of legal - true age (years) among minors at or above the challenge age.

    Minors are all below the legal age. `images` counts those that are at or above.
    """
    years = np.floor(age)
    short = (legal - years)[(years < legal) & appears(predicted, challenge)]
    if not len(short):
        return {"images": 0, "mean": None, "p95": None}
    return {"images": len(short), "mean": float(short.mean()), "p95": float(np.percentile(short, 95))}


def in_child_band(predicted: np.ndarray) -> np.ndarray:
    """Return who is taken for 13 to 16: 13 <= predicted < 17, bool (N,)."""
    return np.asarray((predicted >= CHILD_BAND[0]) & (predicted < CHILD_BAND[1] + 1))

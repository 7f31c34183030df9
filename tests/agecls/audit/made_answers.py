"""Answers made by hand or by a seed, for tests of the audit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agecls.audit.answers import Answers
from finetune.runs.csv_file import csv_text


def answers(
    age: Sequence[float],
    predicted: Sequence[float],
    unit: Sequence[str] | None = None,
    sex: Sequence[str] | None = None,
    **attributes: Sequence[str],
) -> Answers:
    """Return answers to images a0, a1, ...; without units every image is its own."""
    path = np.array([f"a{row}" for row in range(len(age))])
    return Answers(
        name="made",
        source="made.csv",
        path=path,
        age=np.asarray(age, dtype=np.float64),
        predicted=np.asarray(predicted, dtype=np.float64),
        unit=path if unit is None else np.asarray(unit),
        people=unit is not None,
        sex=np.asarray(sex if sex is not None else [""] * len(path)),
        attributes={name: np.asarray(values) for name, values in attributes.items()},
    )


def spread_answers(count: int = 600, seed: int = 0, **attributes: Sequence[str]) -> Answers:
    """Return answers of images of ages 8 to 37 with normal errors of four years, two images a person."""
    generator = np.random.default_rng(seed)
    age = 8.0 + np.arange(count) % 30
    people = [f"p{row // 2}" for row in range(count)]
    sex = ["m" if row // 2 % 2 else "f" for row in range(count)]
    return answers(age, age + generator.normal(0.5, 4, count), people, sex, **attributes)


def write_csv(file: Path, found: Answers, **columns: Sequence[object]) -> Path:
    """Write answers as another system's table and return it."""
    header = ["path", "age", "predicted_age", "subject", "sex", *columns]
    own = zip(found.path, found.age, found.predicted, found.unit, found.sex, *columns.values(), strict=True)
    file.write_text(csv_text(header, own), encoding="utf-8")
    return file

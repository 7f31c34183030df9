"""Synthetic files of the CVPR 2024 benchmark: a database of marked faces in folders, and benchmark.yaml."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from agecls.data.faeb import FIVE, ONE
from agecls.synthetic.known import write_picture

CORNERS = (3, 1, 22, 4, 19, 23, 0, 20)  # turned, and out of the image on one side


def write_faeb(
    root: Path, ages: Sequence[int], *, folders: int = 10, people: bool = True, name: str = "AgeDB"
) -> Path:
    """Write a face of every age in every folder, with its list; return the database (.json).

    Each folder has a person for two ages, and people are in one folder only. Beside it lies benchmark.yaml,
    with the published splits and a second database that is only tested.
    """
    entries: list[dict[str, Any]] = []
    for folder in range(folders):
        for place, age in enumerate(ages):
            number = folder * len(ages) + place
            path = f"{name}/{number}.jpg"
            write_picture(root / path, number, 24)
            entry: dict[str, Any] = {"img_path": path, "age": age, "gender": "MFU"[place % 3]}
            if people:
                entry["name"] = f"person{folder}_{place // 2}"
            entry |= {"database": name, "folder": folder, "aligned_bbox": list(CORNERS)}
            entries.append({**entry, "alignment_source": "in the wild"})
    file = root / f"{name}_aligned.json"
    file.write_text(json.dumps(entries, indent=4))
    splits = [{part: list(own) for part, own in split.items()} for split in (FIVE if folders == 10 else ONE)]
    other = [{"trn": [], "val": [], "tst": [0, 1, 2]}] * len(splits)
    content = [
        {"database": file.name, "tag": name, "split": splits},
        {"database": "Other_aligned.json", "tag": "Other", "split": other},
    ]
    (root / "benchmark.yaml").write_text(yaml.safe_dump(content))
    return file

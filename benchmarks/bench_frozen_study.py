"""A study of losses on a frozen backbone: its features computed once for all cells, or by every cell.

Both sides are the whole command `crl fine study` with seven losses and five seeds, in which only the head
learns. Of the side that shares nothing a few cells are trained, for they all cost the same: what one takes is
multiplied. Time is CPU time, images decoded by an earlier run. The cells that both trained are compared:
their predictions must be the same bits. Images are drawn unless a folder is given, weights are random.

What a cell costs besides its features (model, steps, figures, report) stays: the more images, and the larger,
the more is gained. The default is less than half of CUB-200-2011. Bar: 8 times.

Run: python benchmarks/bench_frozen_study.py [--data FOLDER] [--weights FILE] [--network resnet18]
    [--images 4800] [--size 224] [--epochs 5] [--alone_cells 2]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from core_losses import LOSSES as ALL

LOSSES = tuple(name for name in ALL if not ALL.reads_order(name))
SEEDS, CLASSES, BAR = 5, 10, 8.0
SETTLED = 3  # seconds after which files are no longer looked at as just written


def draw_folders(root: Path, count: int) -> None:
    """Write smooth random images into class folders, half of them to train and half to test."""
    import cv2
    import numpy as np

    generator = np.random.default_rng(0)
    for number in range(count):
        coarse = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        folder = root / ("train", "test")[number % 2] / f"class {number // 2 % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number:05}.jpg"), cv2.resize(coarse, (256, 256)))


def write_weights(file: Path, network: str) -> None:
    """Write random weights, the same for every seed of the study."""
    import timm
    import torch

    torch.manual_seed(0)
    torch.save(timm.create_model(network).state_dict(), file)


def words(options: argparse.Namespace, folder: Path, losses: int, seeds: int) -> list[str]:
    """Return the command."""
    given = {
        "data.root": options.data,
        "model.backbone": options.network,
        "model.weights": options.weights,
        "model.image_size": options.size,
        "train.epochs": options.epochs,
        "train.frozen_epochs": options.epochs,
        "train.augment": "none",
        "losses": f"[{','.join(LOSSES[:losses])}]",
        "controls": "false",
        "seeds": seeds,
        "run.dir": folder,
        "device": "cpu",
        **dict(word.split("=", 1) for word in options.more),
    }
    return ["fine", "study", *(f"--{name}={value}" for name, value in given.items())]


def child(side: str, facts: Path, command: list[str]) -> int:
    """Run the command in this process and write down its CPU time at the end of every cell."""
    import finetune.experiments.study.runs as runs
    import finetune.training.frozen.stage as stage
    import finetune.training.predict as predict
    from apps.cli import main as crl

    if side == "alone":
        for module in (stage, predict):
            vars(module)["sharing_of"] = lambda *_given, **_more: None
    marks: list[float] = []
    train_cell = runs.train_cell

    def timed(*given: Any) -> None:
        marks.append(time.process_time())
        train_cell(*given)
        marks.append(time.process_time())

    vars(runs)["train_cell"] = timed
    sys.argv = ["crl", *command]
    code = crl()
    cells = [end - start for start, end in zip(marks[::2], marks[1::2], strict=True)]
    facts.write_text(json.dumps({"cells": cells, "whole": time.process_time()}))
    return code


def measure(side: str, command: list[str], folder: Path) -> dict[str, Any]:
    """Return the CPU seconds of each cell and of the whole command."""
    facts = folder / f"{side}.json"
    environment = {"HF_HUB_OFFLINE": "1", **os.environ, "CRL_CACHE": str(folder / "cache")}
    whole = [sys.executable, __file__, "--child", side, "--facts", str(facts), "--", *command]
    subprocess.run(whole, check=True, env=environment, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(facts.read_text())
    return result


def same_bits(one: Path, other: Path) -> bool:
    """Return whether every cell that both studies hold predicts the same bits."""
    import pyarrow.parquet as pq

    common = [file.relative_to(one) for file in one.glob("cells/*/*/predictions.parquet")]
    return bool(common) and all(
        pq.read_table(one / file).equals(pq.read_table(other / file)) for file in common
    )


def main() -> int:
    """Print both sides; return 1 when the bar is missed or a bit differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="class folders, or another layout that crl fine reads; else drawn")
    parser.add_argument("--weights", help="file of the network's weights; else random ones")
    parser.add_argument("--network", default="tf_efficientnet_lite0")
    parser.add_argument("--images", type=int, default=4800, help="drawn ones")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--alone_cells", type=int, default=2, help="of the side that shares nothing")
    parser.add_argument("--losses", type=int, default=len(LOSSES))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--more", nargs="*", default=[], help="further options as data.subset=true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--facts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("command", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.facts, options.command)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if options.data is None:
            options.data = folder / "images"
            draw_folders(options.data, options.images)
            time.sleep(SETTLED)
        if options.weights is None:
            options.weights = folder / "weights.pth"
            write_weights(options.weights, options.network)
        sides = {
            "alone": words(options, folder / "alone", options.alone_cells, 1),
            "shared": words(options, folder / "shared", options.losses, options.seeds),
        }
        found = {side: measure(side, command, folder) for side, command in sides.items()}
        equal = same_bits(folder / "alone", folder / "shared")
    return tell(found["alone"], found["shared"], equal=equal)


def tell(alone: dict[str, Any], shared: dict[str, Any], *, equal: bool) -> int:
    """Print what was measured and the verdict; return the exit code."""
    cells, own = shared["cells"], alone["cells"]
    per_cell, rest = sum(own) / len(own), shared["whole"] - sum(cells)
    whole = rest + per_cell * len(cells)
    later = sum(cells[1:]) / max(1, len(cells) - 1)
    print(f"a cell that computes its features: {per_cell:.1f} s of CPU; {len(own)} were trained")
    print(f"shared: {cells[0]:.1f} s the first cell, {later:.1f} s each of {len(cells) - 1} others")
    print(
        f"whole command: {whole:.0f} s alone, {shared['whole']:.0f} s shared; {rest:.1f} s outside the cells"
    )
    print(f"predictions of the cells in both: {'the same bits' if equal else 'DIFFERENT'}")
    ratio = whole / shared["whole"]
    print(f"frozen study, ratio {ratio:.1f}, bar {BAR:.0f}: {'met' if ratio >= BAR else 'MISSED'}")
    return 0 if equal and ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

"""CPU seconds of whole commands that keep the memory they free, beside the same without (CRL_KEEP_MEMORY=0).

Drawn images are written as class folders. Each command then runs in turn with and without: a general study of
one cell, a fine-tuning of ViT-Tiny at 224 px, and the export of the model that it made. Counted is the CPU
time of user and system together, on one thread, so that a busy machine disturbs little. `system` is the part
that the kernel takes, which fills new pages with zeros. It has no bar, for the machine decides.

Run: python benchmarks/bench_memory.py [--pairs 2] [--images 96] [--only study train export]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
SWITCH = "CRL_KEEP_MEMORY"
CLASSES, SIDE = 4, 224
NAMES = ("study", "train", "export")


def write_classes(folder: Path, images: int) -> None:
    """Write JPEG files of random blobs, a folder for each class."""
    draw = np.random.default_rng(0)
    for number in range(images):
        place = folder / f"class{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(place / f"{number:04}.jpg"), cv2.resize(coarse, (SIDE, SIDE)))


def commands(data: Path, folder: Path, switch: str) -> dict[str, list[str]]:
    """Return the words of each command; the export is of the training before it."""
    train = folder / "train0"  # both exports are of one model
    return {
        "study": [
            *("general", "study", "--losses", "crl", "--seeds", "1", "--controls", "false"),
            *(
                "--data.name",
                "folders",
                f"--data.root={data}",
                "--data.image_size=64",
                "--network.name=cifar_cnn",
            ),
            *("--train.epochs=4", "--train.batch_size=32", "--baseline=false", "--run.precision=float32"),
            f"--run.dir={folder / f'study{switch}'}",
        ],
        "train": [
            *("fine", "train", f"--data.root={data}", "--model.backbone=vit_tiny_patch16_224"),
            *(
                "--model.weights=none",
                f"--model.image_size={SIDE}",
                "--train.epochs=2",
                "--train.batch_size=16",
            ),
            *("--run.precision=float32", "--run.workers=0", f"--run.dir={folder / f'train{switch}'}"),
        ],
        "export": ["export", str(train), f"--out={folder / f'export{switch}'}"],
    }


def run(words: list[str], switch: str) -> tuple[float, float]:
    """Run a command; return its CPU seconds, and those of them in the kernel."""
    settings = {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", SWITCH: switch}
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "apps.cli", *words],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    after = os.times()
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}")
    system = after.children_system - before.children_system
    return after.children_user - before.children_user + system, system


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    given = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data"
        write_classes(data, given.images)
        for pair in range(given.pairs):
            folder = Path(scratch) / f"pair{pair}"
            for name in NAMES:
                for switch in ("0", "1") if pair % 2 == 0 or name == "train" else ("1", "0"):
                    if name in given.only or (name, switch) == ("train", "0"):
                        seconds = run(commands(data, folder, switch)[name], switch)
                        found.setdefault((name, switch), []).append(seconds)
    print(f"CPU seconds of the whole command, {given.pairs} pairs, medians")
    for name in given.only:
        sides = [
            [statistics.median(values) for values in zip(*found[name, key], strict=True)] for key in "01"
        ]
        (without, system0), (kept, system1) = sides
        told = f"without {without:.1f} s ({system0:.1f} in the system), kept {kept:.1f} s ({system1:.1f})"
        print(f"{name:<8}{told}   ratio {without / kept:.2f}")


if __name__ == "__main__":
    main()

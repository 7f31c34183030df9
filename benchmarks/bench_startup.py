"""CPU seconds before the first training step of `crl age cv` on a large data set, and before refusals.

A table of small JPEG files is written, each with other bytes, in two thirds as many subjects. The command
is then started twice in a process of its own, which ends where the first step would begin. The first start
hashes and decodes every image. The second finds digests and pixels in the cache folder, and the bar is of it.
Counted is the CPU time of user and system together, imports included, so that a busy machine disturbs little.
A refusal must come before torch is imported.

Run: python benchmarks/bench_startup.py [--images 23700] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
SECOND_BAR, REFUSAL_BAR = 5.0, 1.0  # CPU seconds
SIDE = 64  # px of an image
SETTLED = 2.5  # seconds: a file that has just been written is hashed again

# Runs the program; the module of the training loop gets a first step that reports the CPU time and leaves.
UNTIL_FIRST_STEP = """
import importlib.abc, importlib.util, os, resource, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "finetune.training.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            module.seed_step = leave

        spec.loader.exec_module = exec_module
        return spec

def leave(*_):
    print("first step", file=sys.stderr, flush=True)
    os._exit(0)

sys.meta_path.insert(0, Finder())
from apps.cli import main
code = main()
if "torch" in sys.modules:
    print("torch was imported", file=sys.stderr, flush=True)
raise SystemExit(code)
"""


def write_faces(folder: Path, count: int) -> Path:
    """Write `count` JPEG files that differ in a comment, and their table; return the table."""
    (folder / "faces").mkdir(parents=True)
    draw = np.random.default_rng(0)
    faces = []
    for _ in range(64):
        coarse = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        faces.append(cv2.imencode(".jpg", cv2.resize(coarse, (SIDE, SIDE)))[1].tobytes())
    lines = ["path,age,subject"]
    for number in range(count):
        face, comment = faces[number % len(faces)], f"copy {number:07}".encode()
        marked = face[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + face[2:]
        (folder / "faces" / f"{number:07}.jpg").write_bytes(marked)
        lines.append(f"faces/{number:07}.jpg,{draw.integers(0, 90)},s{number * 2 // 3}")
    table = folder / "faces.csv"
    table.write_text("\n".join(lines), encoding="utf-8")
    return table


def run(*words: str) -> tuple[float, str]:
    """Run the program; return its CPU seconds and what it wrote on the error stream."""
    before = os.times()
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", UNTIL_FIRST_STEP, *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    after = os.times()
    seconds = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, ended.stderr


def told(what: str, seconds: float, bar: float | None = None, *, right: bool = True) -> bool:
    """Print a measurement with its bar; return whether it is met."""
    met = right and (bar is None or seconds <= bar)
    verdict = "" if bar is None else f"   bar {bar:g} s   {'met' if met else 'missed'}"
    print(f"{what:<44}{seconds:6.2f} s{verdict}{'' if right else '   (other than it should end)'}")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=23_700)
    parser.add_argument("--keep", type=Path, default=None, help="a new folder that keeps the files made")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch) / "data"
        table = write_faces(folder, given.images)
        time.sleep(SETTLED)
        words = ["age", "cv", f"--data.table={table}", f"--run.cache={folder / 'cache'}", "--run.workers=0"]
        words += ["--data.groups=0-9,10-19,20-29,30-39,40-49,50-59,60-69,70+", "--device=cpu"]
        words += ["--model.backbone=test_resnet", "--model.weights=none", "--model.image_size=64"]
        print(f"{given.images} images, CPU seconds of user and system together")
        results = []
        for name, bar in (
            ("first start, to the first step", None),
            ("second start, to the first step", SECOND_BAR),
        ):
            seconds, said = run(*words, f"--run.dir={folder / name.split()[0]}")
            results.append(told(name, seconds, bar, right=said.endswith("first step\n")))
        place = f"--run.dir={folder / 'refused'}"
        for name, more in (
            ("refused: no such folder", ("--data.root=nowhere",)),
            ("refused: no such option", ("--train.epoch=3",)),
            ("refused: no such file of weights", ("--model.weights=nothing.pth",)),
        ):
            seconds, said = run(*words, place, *more)
            results.append(told(name, seconds, REFUSAL_BAR, right=bool(said) and "torch" not in said))
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())

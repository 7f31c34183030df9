"""Serving an exported model: ONNX Runtime beside torch, a face's way through, and `crl predict` end to end.

    python benchmarks/bench_inference.py [--weights FILE] [--photo FILE] [--detector FILE] [--images FOLDER]

1. Milliseconds per batch of `apps.runtime.session` (float32 and int8) and of the same network in torch
   (float32, and bfloat16 with channels last), for prepared images at batches 1, 8 and 32. Every round runs
   all of them in an order drawn afresh; what counts is the median over the rounds. All may use every core.
2. Milliseconds of finding a face in a photograph, cutting it out and classifying it, each apart.
3. Images per second of `crl predict` on a folder of files, as a share of what the session alone does with
   pictures that are decoded already: reading files should hide behind the network.
4. What the limits are: how many operations a second a large product of matrices does in torch and the network
   does in ONNX Runtime, and how its time divides between kinds of operation, by the runtime's own profile.

Bars: float32 at batch 1 at least 1.6 times torch's float32; int8 at least 2 times the float32 file (whether
int8 keeps the accuracy is for `crl export --precision int8` to measure, on a trained model); end to end at
least 90 % of the session. It says which were met, and never fails. Keep the machine quiet. Weights are random
unless given, with batch-norm statistics as of a trained network.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from rich.console import Console
from rich.table import Table

from agecls.faces.alignment import crop_face
from agecls.faces.crop import FaceCrop
from agecls.faces.detector import build_detector
from apps.config import PredictConfig
from apps.export.convert import to_int8
from apps.export.graph import build_graph
from apps.export.run import trace, with_facts
from apps.predict.run import predict_paths
from apps.runtime.metadata import ModelFacts
from apps.runtime.session import OnnxClassifier, load_runtime
from finetune.cli.machine import core_count
from finetune.images.batches import normalise
from finetune.images.decode import decode_image
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier, build_classifier

BACKBONES = ("tf_efficientnet_lite0", "resnet18")
BATCHES = (1, 8, 32)
GROUPS = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")
SIZE = 224
BAR_TORCH, BAR_INT8, BAR_END = 1.6, 2.0, 0.9
FP32, INT8, TORCH, TORCH_BF16 = "onnx fp32", "onnx int8", "torch fp32", "torch bf16"

Runner = Callable[[np.ndarray], object]


@dataclass(frozen=True)
class Made:
    """One network, in torch and as files; `same` is the share of answers that int8 keeps."""

    name: str
    core: Classifier
    spec: PreprocessSpec
    fp32: OnnxClassifier
    int8: OnnxClassifier
    same: float


class Bars:
    """The bars, told as they are measured and once more at the end."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, what: str, value: float, bar: float, unit: str = "x") -> None:
        scale = 100 if unit == " %" else 1
        told = f"{scale * value:.3g}{unit}, bar {scale * bar:g}{unit}"
        self.lines.append(f"{what}: {told}: {'met' if value >= bar else 'MISSED'}")


def pictures(count: int, size: int = SIZE) -> np.ndarray:
    """Return smooth random images, uint8 (count, size, size, 3)."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (count, 12, 12, 3), dtype=np.uint8)
    return np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in coarse])


def settle(core: Classifier, spec: PreprocessSpec) -> None:
    """Give batch norms the statistics of images: with those of a fresh network activations die out."""
    core.train()
    with torch.no_grad():
        for batch in np.split(pictures(64), 4):
            core.infer(normalise(torch.from_numpy(batch), spec.mean, spec.std))
    core.eval()


def build(backbone: str, weights: str, folder: Path) -> Made:
    """Return one network in all its forms; random weights where none are given for it."""
    torch.manual_seed(0)
    core = build_classifier(backbone, "linear", len(GROUPS), weights=weights, image_size=SIZE)
    spec = core.backbone.preprocess_spec()
    core.eval()
    if weights == "none":
        settle(core, spec)
    facts = ModelFacts(title=backbone, task="age", class_names=GROUPS, ordered=True, preprocess=spec)
    traced = trace(build_graph([core], spec, torch.from_numpy(pictures(4))), spec)
    fp32 = load(traced, facts, folder / f"{backbone}-fp32.onnx")
    quantised = to_int8(traced, np.split(pictures(64), 4))
    int8 = load(quantised, replace(facts, precision="int8"), folder / f"{backbone}-int8.onnx")
    parts = np.split(pictures(256), 8)
    same = [(fp32.run(part).probs.argmax(1) == int8.run(part).probs.argmax(1)).mean() for part in parts]
    return Made(backbone, core, spec, fp32, int8, float(np.mean(same)))


def load(model: onnx.ModelProto, facts: ModelFacts, file: Path) -> OnnxClassifier:
    """Write a model with its facts and return it at work."""
    onnx.save(with_facts(model, facts), str(file))
    return OnnxClassifier(file, device="cpu")


def runners(made: Made) -> dict[str, Runner]:
    """Return what is timed: each takes prepared images, uint8 (N, S, S, 3), and returns probabilities."""
    half = build_classifier(made.name, "linear", len(GROUPS), weights="none", image_size=SIZE)
    half.load_state_dict(made.core.state_dict())
    half.eval().to(memory_format=torch.channels_last)

    def plain(batch: np.ndarray) -> object:
        images = normalise(torch.from_numpy(batch), made.spec.mean, made.spec.std).contiguous()
        return made.core.infer(images).softmax(1).numpy()

    def mixed(batch: np.ndarray) -> object:
        images = normalise(torch.from_numpy(batch), made.spec.mean, made.spec.std)
        with torch.autocast("cpu", torch.bfloat16):
            return half.infer(images).float().softmax(1).numpy()

    return {FP32: made.fp32.run, INT8: made.int8.run, TORCH: plain, TORCH_BF16: mixed}


def side_by_side(timed: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, run in turns and in an order drawn afresh every round."""
    times: dict[str, list[float]] = {name: [] for name in timed}
    order = list(timed)
    for round_number in range(rounds + 1):
        random.shuffle(order)
        for name in order:
            start = time.perf_counter()
            timed[name]()
            if round_number:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


@torch.inference_mode()
def bench_runtime(made: Made, rounds: int, bars: Bars) -> None:
    shown, timed = pictures(max(BATCHES)), runners(made)
    table = Table("batch", *(f"{name}, ms" for name in timed), "fp32 / torch", "int8 / fp32", title=made.name)
    for batch in BATCHES:
        calls = {name: partial(run, shown[:batch]) for name, run in timed.items()}
        found = side_by_side(calls, max(3, rounds // batch + 3))
        faster, int8 = found[TORCH] / found[FP32], found[FP32] / found[INT8]
        cells = [f"{1000 * seconds:.1f}" for seconds in found.values()]
        table.add_row(str(batch), *cells, f"{faster:.2f}x", f"{int8:.2f}x")
        if batch == 1:
            bars.tell(f"{made.name}, batch 1, onnx fp32 against torch fp32", faster, BAR_TORCH)
        bars.tell(f"{made.name}, batch {batch}, onnx int8 against onnx fp32", int8, BAR_INT8)
    Console().print(table)
    kept = 100 * made.same
    print(f"int8 gives fp32's answer on {kept:.1f} % of 256 drawn images (its accuracy: crl export)\n")


def bench_stages(made: Made, photo: str | None, detector_file: str | None, rounds: int) -> None:
    detector = build_detector(detector_file)
    if detector is None or photo is None:
        print("faces are not timed: give --photo FILE with a face in it and --detector FILE\n")
        return
    image = decode_image(Path(photo))
    faces = detector.detect(image)
    if not faces:
        print(f"faces are not timed: {detector.name} finds none in {photo}\n")
        return
    rule = FaceCrop.of("plain" if faces[0].landmarks is None else "aligned")

    def cut() -> np.ndarray:
        return made.fp32.prepare(crop_face(image, faces[0], rule, made.spec.resize_size))

    crop = cut()[None]
    timed = {
        "decode": lambda: decode_image(Path(photo)),
        f"detect ({detector.name}, {len(faces)} faces)": lambda: detector.detect(image),
        f"cut out ({rule.style})": cut,
        f"classify ({made.name}, fp32)": lambda: made.fp32.run(crop),
    }
    table = Table("step", "ms", title=f"one photograph of {image.shape[1]} x {image.shape[0]} px")
    for name, seconds in side_by_side(timed, max(5, rounds)).items():
        table.add_row(name, f"{1000 * seconds:.1f}")
    Console().print(table)


def rate(seconds: float, operations: float) -> str:
    return f"{operations / seconds / 1e9:.0f} GFLOP/s"


def bench_limits(made: Made, rounds: int) -> None:
    """Print how near the runtime is to the arithmetic of this machine, and where the time goes."""
    from torch.utils.flop_counter import FlopCounterMode

    side = 2048
    factor, one = torch.randn(side, side), pictures(1)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        made.core.infer(torch.zeros(1, 3, SIZE, SIZE))
    timed = {
        "product": lambda: torch.mm(factor, factor),
        "fp32": lambda: made.fp32.run(one),
        "int8": lambda: made.int8.run(one),
    }
    found = side_by_side(timed, max(5, rounds))
    flops = counter.get_total_flops()
    limit = rate(found["product"], 2 * side**3)
    print(
        f"{made.name}: a product of {side} x {side} matrices in float32 does {limit}, "
        f"the fp32 file {rate(found['fp32'], flops)}, the int8 file {rate(found['int8'], flops)}"
    )
    for name, model in (("fp32", made.fp32), ("int8", made.int8)):
        shares = profile(model, one, max(10, rounds))
        parts = ", ".join(f"{kind} {ms:.2f} ms" for kind, ms in shares[:5])
        print(f"  {name}: {parts}, the rest {sum(ms for _, ms in shares[5:]):.2f} ms")


def profile(model: OnnxClassifier, batch: np.ndarray, rounds: int) -> list[tuple[str, float]]:
    """Return the milliseconds that each kind of operation takes in one run, largest first."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.enable_profiling = True
    options.intra_op_num_threads = core_count()
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = runtime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        for _ in range(rounds):
            session.run(["probs"], {"images": batch})
        events = json.loads(Path(session.end_profiling()).read_text())
    times: dict[str, float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            kind = event["args"]["op_name"]
            times[kind] = times.get(kind, 0.0) + event["dur"] / 1000 / rounds
    return sorted(times.items(), key=lambda item: -item[1])


def write_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of about 250 x 250 px, the size of a cut-out face."""
    folder.mkdir()
    for number, picture in enumerate(pictures(count, 256)):
        cv2.imwrite(
            str(folder / f"{number:04}.jpg"), picture[: 220 + number % 37], [cv2.IMWRITE_JPEG_QUALITY, 90]
        )


def bench_end_to_end(made: Made, folder: Path, rounds: int, out: Path, bars: Bars) -> None:
    count = sum(1 for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    batch = pictures(32)

    def session() -> None:
        for start in range(0, count, 32):
            made.fp32.run(batch[: count - start])

    def predict() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            predict_paths([str(made.fp32.path), str(folder)], PredictConfig(out=str(out), device="cpu"))

    found = side_by_side({"session": session, "predict": predict}, rounds)
    table = Table("", "pictures/s", title=f"{made.name}, {count} files, batches of 32")
    table.add_row("session, decoded already", f"{count / found['session']:.0f}")
    table.add_row("crl predict, files to csv", f"{count / found['predict']:.0f}")
    Console().print(table)
    bars.tell("end to end, of the session's own rate", found["session"] / found["predict"], BAR_END, " %")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", default="none", help=f"weights file of {BACKBONES[0]}")
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), help="timm backbones")
    parser.add_argument("--photo", help="photograph with a face in it")
    parser.add_argument("--detector", help="YuNet's ONNX file")
    parser.add_argument("--images", help="folder of images for the way end to end; drawn ones otherwise")
    parser.add_argument("--count", type=int, default=1000, help="drawn images")
    parser.add_argument("--rounds", type=int, default=30, help="rounds at batch 1; fewer for more images")
    return parser.parse_args()


def main() -> None:
    """Print the tables and the bars."""
    chosen, bars = options(), Bars()
    torch.set_num_threads(core_count())
    print(f"{core_count()} cores, torch {torch.__version__}, {SIZE} px\n")
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        made = [
            build(name, chosen.weights if name == BACKBONES[0] else "none", place)
            for name in chosen.backbones
        ]
        for one in made:
            bench_runtime(one, chosen.rounds, bars)
            bench_limits(one, chosen.rounds)
        bench_stages(made[0], chosen.photo, chosen.detector, chosen.rounds)
        folder = Path(chosen.images) if chosen.images else place / "pictures"
        if not chosen.images:
            write_pictures(folder, chosen.count)
        bench_end_to_end(made[0], folder, max(1, chosen.rounds // 10), place / "answers.csv", bars)
    print("\n".join(["", *bars.lines]))


if __name__ == "__main__":
    main()

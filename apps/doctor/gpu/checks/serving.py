"""Check 10: exported files run on the GPU, all of them, and answer as the trained model does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from apps.doctor.gpu.bounds import SERVING_ERROR
from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.drawn import CLASSES, drawn_images, random_classifier, spec_of
from apps.export.graph import ExportGraph, build_graph
from apps.export.parity import eager_answers, onnx_answers
from apps.export.run import trace, with_facts
from apps.runtime.metadata import ModelFacts
from apps.runtime.session import CPU, CUDA, CUDA_OPTIONS, OnnxClassifier, load_runtime
from finetune.errors import CrlError

HEADS = ("linear", "bilinear")
BATCHES = (1, 7, 32)
REPAIR = "serve on the CPU (--device cpu) until this is fixed, and send gpu-check.json"
INSTALL = "crl doctor looks at ONNX Runtime and says what it lacks; until then serve with --device cpu"
ELSEWHERE = "answers are right and slower than they could be; send gpu-check.json"


def check_serving(setup: Setup) -> Outcome:
    """Return what exported files run on, and how far their answers are from torch's on the processor."""
    found, side = Findings(), setup.sizes.large_side
    for head in HEADS:
        file = setup.folder / f"{head}.onnx"
        graph = write_file(file, setup.sizes.trunk, head, side)
        try:
            model = OnnxClassifier(file, device=str(setup.device))
        except CrlError as error:
            found.fault("wrong", f"{head}: {' '.join(str(error).split())}", INSTALL)
            continue
        _answers(found, head, model, graph, side)
        found.require(
            model.device == setup.device.type,
            f"{head}: it runs on {model.device} ({model.device_note})",
            INSTALL,
        )
        _places(found, head, places_of_nodes(file, setup), setup.card.on_cuda)
    return found.outcome()


def _answers(found: Findings, head: str, model: OnnxClassifier, graph: ExportGraph, side: int) -> None:
    images = drawn_images(max(BATCHES), side).numpy()
    wanted = eager_answers(graph, images)
    worst, same = 0.0, True
    for size in BATCHES:
        got = onnx_answers(model, images[:size], size)
        for name in ("logits", "probs"):
            right = wanted[name][:size]
            error = float(np.abs(got[name] - right).max() / np.abs(wanted[name]).max())
            worst = max(worst, error if np.isfinite(error) else np.inf)
            same = same and bool((got[name].argmax(1) == right.argmax(1)).all())
    found.numbers[head] = {"error": worst, "same_answers": same}
    found.require(worst <= SERVING_ERROR, f"{head}: outputs off by {worst:.1e} of the largest", REPAIR)
    found.require(same, f"{head}: another class is the most probable than torch's", REPAIR)
    if worst <= SERVING_ERROR and same:
        found.add(f"{head}: {model.device}, within {worst:.1e}, same answers in batches of 1, 7 and 32")


def _places(found: Findings, head: str, places: dict[str, Counter[str]], on_cuda: bool) -> None:
    found.numbers[head]["nodes"] = {place: sum(kinds.values()) for place, kinds in places.items()}
    strangers = places.get(CPU, Counter()) if on_cuda else Counter[str]()
    told = ", ".join(f"{count} {kind}" for kind, count in strangers.most_common(4))
    found.require(not strangers, f"{head}: on the processor run {told}", ELSEWHERE)


def write_file(file: Path, backbone: str, head: str, side: int) -> ExportGraph:
    """Write a classifier with random weights as `crl export` does; return the graph it came from."""
    core = random_classifier(backbone, head, side).eval()
    spec = spec_of(side)
    graph = build_graph([core], spec, drawn_images(2, side))
    names = tuple(f"class {number}" for number in range(CLASSES))
    facts = ModelFacts(f"drawn {head}", "drawn", names, False, spec)
    file.write_bytes(with_facts(trace(graph, spec), facts).SerializeToString())
    assert isinstance(graph, ExportGraph)
    return graph


def places_of_nodes(file: Path, setup: Setup) -> dict[str, Counter[str]]:
    """Return the kinds of operations that each provider really ran, read from the runtime's own profile."""
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(file.with_suffix(""))
    gpu = (CUDA, {"device_id": str(setup.device.index or 0), **CUDA_OPTIONS})
    providers = [gpu, CPU] if setup.card.on_cuda else [CPU]
    session = runtime.InferenceSession(file.read_bytes(), options, providers=providers)
    side = setup.sizes.large_side
    session.run(None, {"images": torch.zeros(2, side, side, 3, dtype=torch.uint8).numpy()})
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    places: dict[str, Counter[str]] = {}
    for event in events:
        told = event.get("args", {})
        if event.get("cat") == "Node" and "provider" in told:
            places.setdefault(told["provider"], Counter())[told["op_name"]] += 1
    return places

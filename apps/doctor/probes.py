"""Checks that import large libraries: each runs in a process of its own, where a crash or noise stays.

`python -P -m apps.doctor.probes NAME [WORD ...]` prints the findings of one check as JSON on its last line.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from apps.runtime.installed import Finding
from finetune.errors import CrlError
from finetune.figures.canvas import count_text

# The smallest model that computes something: y = Relu(x), one number, opset 18.
TINY_MODEL = bytes.fromhex(
    "080812003a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a02"
    "0801620f0a0179120a0a08080112040a02080142040a001012"
)


def probe_torch() -> list[Finding]:
    """Return whether torch loads, and whether it can compute on a GPU."""
    from apps.runtime.cuda_driver import driver_problem

    try:
        import torch
    except (ImportError, OSError) as error:
        return [
            Finding("torch", "wrong", f"cannot be loaded ({error})", "pip install --force-reinstall torch")
        ]
    build = f"torch {torch.__version__}, {count_text(torch.get_num_threads(), 'thread')}"
    if not torch.cuda.is_available():
        problem = driver_problem()
        if problem is not None:
            return [Finding("training device", "note", f"{build}, cpu: {problem.what}", problem.remedy)]
        mend = "install the build of torch for this machine's CUDA: see its installation page"
        return [Finding("training device", "note", f"{build}, cpu: it does not see the GPU", mend)]
    from finetune.training.optimization.precision import unserved_gpu

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    found = f"{build}, cuda {torch.version.cuda}: {', '.join(names)}"
    try:
        (torch.ones(8, device="cuda") @ torch.ones(8, device="cuda")).item()
    except RuntimeError as error:
        first = (str(error).splitlines() or [""])[0]
        mend = (
            unserved_gpu("cuda")
            or "crl doctor --gpu looks further; nvidia-smi shows whether the GPU is sound"
        )
        return [Finding("training device", "wrong", f"{found}, but computing fails: {first}", mend)]
    return [Finding("training device", "ok", f"{found}; crl doctor --gpu tries what it computes")]


def probe_runtime() -> list[Finding]:
    """Return which of ONNX Runtime's providers really load: each computes one number."""
    from apps.runtime.session import CPU, CUDA, cuda_problem, load_runtime

    try:
        runtime = load_runtime()
    except CrlError as error:
        return [_refusal("serving device", str(error))]
    found = f"onnxruntime {runtime.__version__}"
    answer = _computes(runtime, CPU)
    if answer:
        return [Finding("serving device", "wrong", f"{found}: the CPU fails ({answer})", "reinstall it")]
    problem = cuda_problem()
    if problem is not None:
        return [
            Finding("serving device", "note", f"{found}, cpu loads; cuda: {problem.what}", problem.remedy)
        ]
    answer = _computes(runtime, CUDA)
    if answer:
        mend = "its messages: python -P -m apps.doctor.probes runtime"
        return [Finding("serving device", "note", f"{found}, cpu loads; cuda fails: {answer}", mend)]
    return [Finding("serving device", "ok", f"{found}: cpu and cuda load")]


def _computes(runtime: object, provider: str) -> str:
    """Return why a provider does not compute, an empty text where it does."""
    import numpy as np

    try:
        session = runtime.InferenceSession(TINY_MODEL, providers=[provider])  # type: ignore[attr-defined]
        if session.get_providers()[0] != provider:
            return f"it was replaced by {session.get_providers()[0]}"
        (answer,) = session.run(None, {"x": np.array([3], np.float32)})
    except Exception as error:  # the runtime has a dozen kinds of its own; reported as the finding
        return (str(error).splitlines() or [type(error).__name__])[0][:200]
    return "" if answer.tolist() == [3.0] else f"it computes {answer.tolist()} where 3 is right"


def probe_pictures(detector: str = "") -> list[Finding]:
    """Return whether OpenCV loads, reads videos, and finds faces; `detector` is a file, or empty."""
    try:
        import cv2
    except (ImportError, OSError) as error:
        mend = 'pip install --force-reinstall "opencv-python-headless"'
        return [Finding("opencv", "wrong", f"cannot be loaded ({error})", mend)]
    videos = cv2.videoio_registry.hasBackend(cv2.CAP_FFMPEG)
    mend = "" if videos else "reinstall opencv-python-headless: videos cannot be read"
    told = "reads videos" if videos else "has no FFmpeg"
    opencv = Finding("opencv", "ok" if videos else "note", f"{cv2.__version__}, {told}", mend)
    return [opencv, _detector_finding(detector)]


def _detector_finding(detector: str) -> Finding:
    import numpy as np

    from agecls.faces.detector import build_detector, find_detector, missing_detector_message

    try:
        found = build_detector(detector or None)
        if found is not None:
            found.detect(np.full((320, 320, 3), 128, np.uint8))
    except CrlError as error:
        return Finding("face detector", "wrong", str(error))
    if found is None:
        what = "none: --faces and whole photographs in the demo need one"
        return Finding("face detector", "note", what, missing_detector_message())
    return Finding("face detector", "ok", f"{found.name} at {find_detector(detector or None)}")


def probe_weights(backbone: str = "", weights: str = "") -> list[Finding]:
    """Return whether the weights of a backbone, or a weights file, are on this machine and can be read."""
    from finetune.models.backbone import build_backbone, published_weights
    from finetune.models.tensor_files import read_tensors
    from finetune.models.weights import can_reach, find_cached, find_local, forbidden_to_connect, how_to_fetch

    name = f"weights of {backbone}" if backbone else "weights"
    try:
        if weights and backbone:
            return [Finding(name, "ok", build_backbone(backbone, weights).weights.describe())]
        if weights:
            file = find_local(Path(weights), Path(weights).stem)
            return [Finding(name, "ok", f"{len(read_tensors(file))} tensors in {file}")]
        published = published_weights(backbone)
        cached = find_cached(published)
        if cached is not None:
            megabytes = cached.stat().st_size / 1e6
            found = f"{published.name}: {len(read_tensors(cached))} tensors, {megabytes:.1f} MB, {cached}"
            return [Finding(name, "ok", found)]
    except CrlError as error:
        return [_refusal(name, str(error))]
    if not published.address:
        mend = "train with --model.weights none, or give a weights file"
        return [Finding(name, "note", f"nobody publishes weights for {published.name}", mend)]
    if forbidden_to_connect():
        return [_refusal(name, how_to_fetch(published, "HF_HUB_OFFLINE is set"))]
    if not can_reach(published.address):
        return [_refusal(name, how_to_fetch(published, "there is no connection to fetch them"))]
    mend = f"nothing: training fetches them from {published.address}"
    return [Finding(name, "note", f"{published.name} is not on this machine yet", mend)]


def _refusal(name: str, message: str) -> Finding:
    """Return a message as a finding: its first line is what was found, the others are its fix."""
    found, _, repair = message.partition("\n")
    return Finding(name, "wrong", found, textwrap.dedent(repair))


PROBES: dict[str, Callable[..., list[Finding]]] = {
    "torch": probe_torch,
    "runtime": probe_runtime,
    "pictures": probe_pictures,
    "weights": probe_weights,
}


def main(words: Sequence[str]) -> None:
    """Run the probe that the first word names, and print what it found."""
    findings = PROBES[words[0]](*words[1:])
    print(f"\n{json.dumps([asdict(finding) for finding in findings])}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

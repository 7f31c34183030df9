"""What the tests of the export share: a finished run, and the exporter's table of operators, read once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest

import apps.export.run
from agecls.cross_validation import cross_validate
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK
from apps.export.run import trace
from finetune.cli.console import reset
from finetune.models.bundle import weights_hash
from tests.agecls.tiny_ages import tiny
from tests.finetune.experiments.tiny_tasks import leave_out_pictures


@pytest.fixture(scope="session", autouse=True)
def operators_read_once() -> Iterator[None]:
    """torch.onnx.export parses the source of all operators at every call; here the first has to do."""
    from torch.onnx._internal._lazy_import import onnxscript_apis

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", cache(onnxscript_apis.get_torchlib_ops))
        yield


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cross-validation of drawn faces; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("export")
    write_lookalike_adience(folder / "faces", users=10, images_per_subject=2, image_size=32)
    config = tiny(folder / "faces", folder / "tiny run")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        cross_validate(TASK, replace(config, train=replace(config.train, epochs=3)))
    reset()
    return folder / "tiny run"


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may spoil."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace each model once for all tests of what comes after the trace; other tests trace as ever."""
    monkeypatch.setattr(apps.export.run, "trace", trace_once)


TRACES: dict[str, bytes] = {}


def trace_once(graph: Any, spec: Any) -> onnx.ModelProto:
    """Return a copy of the trace of the model of these weights; a calibrated one is traced each time."""
    if getattr(graph, "scaling", None) is not None:
        return trace(graph, spec)
    weights = weights_hash(graph.state_dict())
    if weights not in TRACES:
        TRACES[weights] = trace(graph, spec).SerializeToString()
    return onnx.ModelProto.FromString(TRACES[weights])

"""benchmarks/gpu_first.py: what the doctor and the benchmarks found, as a section of docs/results.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_first", ROOT / "benchmarks" / "gpu_first.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_first"] = module
    spec.loader.exec_module(module)
    return module


def test_the_section_has_the_gpus_name_the_checks_and_the_speeds(script: ModuleType):
    speeds = {
        name: {"images": images, "main": main}
        for name, images, main in (("on device", 3100.0, 0.1), ("ours", 3050.4, 0.04), ("plain", 900.0, 0.9))
    }
    content = {
        "device": {
            "name": "NVIDIA X",
            "capability": "9.0",
            "driver": "580.65",
            "cuda": "13.0",
            "memory_bytes": 8e10,
        },
        "system": {"cores": 16},
        "versions": {"torch": "2.15.0"},
        "checks": [
            {"number": 2, "name": "losses", "status": "ok", "found": "within\n1e-7 | all", "numbers": {}},
            {
                "number": 11,
                "name": "speed",
                "status": "ok",
                "found": "fast",
                "numbers": {"resnet50, 224 px": speeds, "compiled": None},
            },
        ],
    }
    bench = script.Bench("What heads cost", ["x"], 10.0)
    measured = [
        script.Measured(bench, ["| a |"], ""),
        script.Measured(bench, [], "left out: no time was left"),
    ]
    text = script.section(content, measured, "abc1234")
    assert text.startswith(
        "## NVIDIA X\n\nThe GPU has 80 GB (compute capability 9.0, driver 580.65, CUDA 13.0)."
    )
    assert "| 2 losses | ok | within 1e-7 / all |" in text
    assert "| resnet50, 224 px | 3,100 | 3,050 | 900 | 4 |" in text
    assert "### What heads cost\n\n```\n| a |\n```\n" in text
    assert "Note: left out: no time was left." in text


def test_a_benchmark_gets_the_time_that_is_left_and_keeps_what_it_said(script: ModuleType):
    said = script.Bench("a", [sys.executable, "-c", "print('x'); raise SystemExit(3)"], 60.0)
    assert script.run(said, 30.0) == script.Measured(said, ["x"], "exit code 3")
    assert script.run(said, 5.0).note == "left out: no time was left"
    code = "import time; print('one', flush=True); time.sleep(60)"
    late = script.Bench("b", [sys.executable, "-c", code], 0.5)
    assert script.run(late, 30.0) == script.Measured(late, ["one"], "stopped after 0 s")

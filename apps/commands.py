"""The programs behind `crl` that belong to no study: each turns its options into the call that does it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apps.config import (
    CacheConfig,
    CurvesConfig,
    DemoConfig,
    DoctorConfig,
    EvaluateOnnxConfig,
    ExplainConfig,
    ExportConfig,
    PredictConfig,
    QuickstartConfig,
)
from finetune.cli.command import Command


def export(config: ExportConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Write a run's models as checked .onnx files."""
    from apps.export.run import export_run

    return export_run(Path(words["run"]), config)


def predict(config: PredictConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Run exported models on images."""
    from apps.predict.run import predict_paths

    return predict_paths(words["models_and_paths"].split("\n"), config)


def explain(config: ExplainConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Draw where a model looked."""
    from apps.explain import explain_pictures

    return explain_pictures(Path(words["model"]), words["paths"].split("\n"), config)


def evaluate_onnx(config: EvaluateOnnxConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Score exported models on the test images of their run, or on other data."""
    from apps.evaluate.evaluate_onnx import evaluate_onnx as run

    return run([Path(name) for name in words["models"].split("\n")], config)


def demo(config: DemoConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Serve the demo until it is stopped."""
    from apps.demo.page import serve_demo

    return serve_demo([Path(name) for name in words["models"].split("\n")], config)


def cache(config: CacheConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """List the caches of decoded images, or remove those that no run holds."""
    from apps.cache import look_after_cache

    return look_after_cache(words["action"], config)


def doctor(config: DoctorConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Look the installation over, or the GPU."""
    from apps.doctor.run import run_doctor

    if config.gpu:
        from apps.doctor.gpu.run import run_gpu_doctor

        return run_gpu_doctor(config)

    return run_doctor(config)


def quickstart(config: QuickstartConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Draw faces, cross-validate three losses on them, compare, export, and open the demo."""
    from apps.quickstart import run_quickstart

    return run_quickstart(config)


def curves(config: CurvesConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Draw the curves and say where they lie."""
    from apps.curves import draw_curves
    from finetune.cli.console import say

    made = draw_curves(Path(config.out), losses=config.losses, points=config.points, options=config.options)
    say(f"figure: {made['png']}\nnumbers: {made['csv']}")
    return {name: str(value) if isinstance(value, Path) else value for name, value in made.items()}


COMMANDS = {
    "export": Command(
        ExportConfig,
        "a finished run as self-describing ONNX files, checked against the trained model",
        export,
        {"run": "a run folder of train or cv, or the file of the weights that are wanted"},
    ),
    "predict": Command(
        PredictConfig,
        "run exported models on images, folders or videos (no torch needed)",
        predict,
        {"models_and_paths...": "one .onnx file or more, then files, folders, globs, videos, or - (a list)"},
    ),
    "explain": Command(
        ExplainConfig,
        "where a trained or exported model found its evidence, drawn over each crop",
        explain,
        {
            "model": "a run folder, a model.safetensors or an .onnx file",
            "paths...": "images, folders, globs",
        },
    ),
    "evaluate-onnx": Command(
        EvaluateOnnxConfig,
        "score exported models: the trained model's predictions again, or on other data",
        evaluate_onnx,
        {"models...": "the .onnx files"},
    ),
    "demo": Command(
        DemoConfig,
        "a local web page: upload images, compare models, see softmax heat maps",
        demo,
        {"models...": "the .onnx files to show side by side"},
    ),
    "curves": Command(
        CurvesConfig,
        "draw the losses that read the posterior of the true class alone, and their true gradients",
        curves,
    ),
    "cache": Command(
        CacheConfig,
        "the decoded images kept between runs: list them, or remove those that no run holds",
        cache,
        {"action": "ls or clean"},
    ),
    "doctor": Command(
        DoctorConfig, "check the installation, or with --gpu the GPU; says how to fix what is wrong", doctor
    ),
    "quickstart": Command(
        QuickstartConfig,
        "three losses cross-validated on drawn faces, exported, and shown in the demo: a first result",
        quickstart,
    ),
}

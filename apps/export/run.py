"""`crl export`: a trained run as .onnx files, each checked against the trained model before it exists."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from apps.config import FP16_TOLERANCE, ExportConfig
from apps.export.former import former_export, load_members, plan_facts, refuse_foreign_content, told_export
from apps.export.images import RunPictures, spread
from apps.export.metadata import finished_facts
from apps.export.parity import check_repeats
from apps.export.plan import CARD, Plan, plan_exports, run_and_weights
from apps.export.simplify import tidy
from apps.runtime.calibration import scaling_of
from apps.runtime.metadata import METADATA_KEY, ModelFacts, PrecisionName
from finetune.cli.console import say, table
from finetune.errors import ModelFileError, UsageError
from finetune.images.preprocess import PreprocessSpec
from finetune.runs.files import atomic_file, remove_stale, write_bytes

if TYPE_CHECKING:
    from apps.export.graph import EnsembleGraph, ExportGraph

OPSET = 18
FP16_SAME_CLASS = 0.9
NOISY = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
LARGEST = 2**31 - 2**20


def export_run(named: Path, config: ExportConfig) -> dict[str, Any]:
    """Export the models of a finished run, each with its model card, and return what was written.

    `named` is the run's folder, or the one file of weights in it that is wanted (model-best.safetensors).
    Each .onnx file goes to RUN/export/<fold0 | model | ensemble>[-fp16 | -int8]/<title>.onnx and exists only
    once it was checked. One that an earlier call has finished is checked and kept, so that an export that was
    stopped goes on where it ended.

    Raises UsageError for options that do not fit the run, or another export in the same place without
    `overwrite`; ModelFileError for a file that is not as the trained model, or an int8 one that loses more
    accuracy than allowed; DataError where the run's images cannot be read.
    """
    folder, _ = run_and_weights(Path(named))
    plans = plan_exports(Path(named), config)
    pictures = RunPictures.open(folder)
    for plan in plans:
        refuse_foreign_content(plan)
    crop, crop_source = pictures.task.model_crop(folder, pictures.record, config)
    # All former exports are looked at before the first new one is made.
    kept = [former_export(folder, plan, pictures, crop, crop_source, config) for plan in plans]
    made = [
        former or export_model(folder, plan, pictures, crop, crop_source, config)
        for plan, former in zip(plans, kept, strict=True)
    ]
    rows = [
        [item["title"], item["precision"], f"{item['size_bytes'] / 1e6:.1f}", item["file"]] for item in made
    ]
    table(f"{len(made)} checked", ["model", "precision", "MB", "file"], rows)
    return {"run": str(folder), "exports": made}


def export_model(
    folder: Path,
    plan: Plan,
    pictures: RunPictures,
    crop: Mapping[str, Any] | None,
    crop_source: str,
    config: ExportConfig,
) -> dict[str, Any]:
    """Trace, check, convert where asked, check again, and only then write one file and its card."""
    import torch

    from apps.export.graph import build_graph

    members, cores, spec = load_members(plan, pictures.record)
    rows = pictures.check_rows(list(plan.folds), config.images)
    real = pictures.load(rows, spec)
    facts = plan_facts(folder, plan, pictures, members, crop, crop_source, config.calibrate)
    scaling = scaling_of(facts.calibration, len(facts.class_names))
    graph = build_graph(cores, spec, torch.from_numpy(real[:4]), scaling)
    check_repeats(folder, plan, graph, pictures, rows, real)
    with tempfile.TemporaryDirectory(prefix="crl-export-") as scratch:
        check = Check(Path(scratch), facts, graph, real)
        start = time.monotonic()
        model = trace(graph, spec)
        what = "the model" if len(members) == 1 else f"{len(members)} models as one"
        say(f"{plan.title}: traced {what} in {time.monotonic() - start:.1f} s")
        parity = check.same(model, "fp32")
        if config.precision == "fp16":
            model, parity = as_fp16(model, check, parity, config.max_difference)
        elif config.precision == "int8":
            model, parity = as_int8(model, check, parity, plan, pictures, config)
    return write_export(plan, model, finished_facts(facts, config.precision, parity))


def trace(graph: ExportGraph | EnsembleGraph, spec: PreprocessSpec) -> onnx.ModelProto:
    """Return the graph as an ONNX model of opset 18 with a batch axis of any length, without its facts.

    Raises ModelFileError where the exporter fails or the model outgrows the 2 GiB of a single file.
    """
    import torch

    from apps.export.graph import HEAD_PART

    example = torch.zeros((2, spec.image_size, spec.image_size, 3), dtype=torch.uint8)
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=["images"],
                output_names=graph.output_names,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            last = str(error).strip().splitlines()[-1][:300]
            raise ModelFileError(f"torch cannot write this model as ONNX: {last}") from error
    assert program is not None
    model = program.model_proto
    if model.ByteSize() > LARGEST:
        raise ModelFileError(f"the model takes {model.ByteSize():,} bytes, one .onnx file holds {LARGEST:,}")
    tidy(model, HEAD_PART)
    forget_origin(model)
    return model


def forget_origin(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes from a model: they quote source files by their path on this machine."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.metadata_props[:]
    model.doc_string = ""


@dataclass(frozen=True)
class Check:
    """What every version of a model is compared with before it may be written.

    Args:
        scratch: a folder for files that nobody will see.
        facts: of the float32 model.
        graph: the trained model.
        real: prepared images, uint8 (M, S, S, 3), M >= 16.
    """

    scratch: Path
    facts: ModelFacts
    graph: ExportGraph | EnsembleGraph
    real: np.ndarray

    def same(
        self,
        model: onnx.ModelProto,
        precision: PrecisionName,
        tolerance: float = 1e-4,
        same_class: float = 1.0,
    ) -> dict[str, Any]:
        """Check the model's form and its answers; see `apps.export.parity.check_parity`."""
        from apps.export.parity import check_parity

        file = self.draft(model, precision)
        found = check_parity(file, self.graph, self.real, tolerance=tolerance, same_class=same_class)
        apart = ", ".join(f"{name} {value:g}" for name, value in found["max_relative_difference"].items())
        same = ", ".join(f"{value:g} % of {name}" for name, value in found["same_class_percent"].items())
        sizes = ", ".join(map(str, found["batches"]))
        say(
            f"{precision} against the trained model on {found['real_images']} real and "
            f"{found['random_images']} random images in batches of {sizes}: largest relative difference "
            f"{apart}; same class for {same}"
        )
        return found

    def draft(self, model: onnx.ModelProto, precision: PrecisionName) -> Path:
        """Write the model, after onnx's own check of its form, into the scratch folder."""
        try:
            onnx.checker.check_model(model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            reason = str(error).strip().splitlines()[0][:300]
            raise ModelFileError(
                f"the exported graph is no valid ONNX: {reason}. Nothing was written"
            ) from error
        file = self.scratch / f"{precision}.onnx"
        file.write_bytes(with_facts(model, replace(self.facts, precision=precision)).SerializeToString())
        return file


def as_fp16(
    model: onnx.ModelProto, check: Check, before: dict[str, Any], max_difference: float
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model in float16 and how far it is from the trained one, at most `max_difference`."""
    from apps.export.convert import to_fp16

    model = to_fp16(model)
    try:
        found = check.same(model, "fp16", max_difference, FP16_SAME_CLASS)
    except ModelFileError as error:
        raise ModelFileError(
            f"float16 is too coarse for this model, use fp32: {error}. --max_difference (now "
            f"{max_difference:g}) accepts outputs that differ by more"
        ) from None
    raised = {"usual_tolerance": FP16_TOLERANCE} if max_difference > FP16_TOLERANCE else {}
    return model, {**found, **raised, "float32_graph": before["max_relative_difference"]}


def as_int8(
    model: onnx.ModelProto,
    check: Check,
    before: dict[str, Any],
    plan: Plan,
    pictures: RunPictures,
    config: ExportConfig,
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Return the model in int8, and what that costs on its test images; refuse too large a loss."""
    from apps.export.convert import to_int8
    from apps.export.parity import check_accuracy

    train, test = pictures.rows(plan.folds[0])
    if not len(test):
        raise UsageError(
            f"{plan.title} was trained on every image: nothing is left to measure int8 on; use fp16"
        )
    spec = check.facts.preprocess
    rows = spread(train, config.calibration_images)
    start = time.monotonic()
    small = to_int8(model, pictures.batches(rows, spec))
    say(f"int8: ranges taken from {len(rows)} training images, {time.monotonic() - start:.1f} s")
    found = check.same(small, "int8", float("inf"), 0.0)
    accuracy = check_accuracy(
        check.draft(model, "fp32"),
        check.draft(small, "int8"),
        pictures.batches(test, spec),
        pictures.manifest.label[test],
        max_drop=config.max_drop,
    )
    return small, {
        **found,
        "float32_graph": before["max_relative_difference"],
        "accuracy": accuracy,
        "calibration_images": len(rows),
    }


def with_facts(model: onnx.ModelProto, facts: ModelFacts) -> onnx.ModelProto:
    """Return a copy of the model whose metadata hold the facts and nothing else."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    onnx.helper.set_model_props(made, {METADATA_KEY: facts.to_json()})
    return made


def write_export(plan: Plan, model: onnx.ModelProto, facts: ModelFacts) -> dict[str, Any]:
    """Write a checked model and its card; the file takes its name once it reads back as what was checked."""
    from apps.export.card import write_card
    from apps.runtime.session import OnnxClassifier

    final = with_facts(model, facts)
    content = final.SerializeToString()
    plan.place.mkdir(parents=True, exist_ok=True)
    remove_stale(plan.place)
    with atomic_file(plan.target, len(content), lambda: confirm(Path(stream.name))) as stream:

        def confirm(file: Path) -> None:
            OnnxClassifier(file, device="cpu")
            if onnx.load(file) != final:
                raise ModelFileError(
                    f"{plan.target} does not read back as it was written: is the disk sound?"
                )

        stream.write(content)
    for former in plan.place.glob("*.onnx"):
        if former != plan.target:
            former.unlink()
    digest = hashlib.sha256(content).hexdigest()
    write_bytes(plan.place / CARD, write_card(facts, plan.target.name, digest, len(content)).encode())
    say(f"wrote {plan.target} ({len(content) / 1e6:.1f} MB) and its card {plan.place / CARD}")
    return told_export(plan, facts, digest, len(content))


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's progress and advice off the screen; its errors are raised as ever."""
    loggers = [logging.getLogger(name) for name in NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(torch|onnxscript|onnx_ir|copyreg|timm)(\.|$)")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)

"""By which words exported age models are shown."""

from __future__ import annotations

from finetune.experiments.exported.model import ModelWords

WORDS = ModelWords(
    kind="age",
    tab="Age groups",
    question="Which age group does a face appear to belong to? An estimate of the <b>apparent</b> age group, "
    "to compare models by: not a person's age, and not for decisions about individuals.",
    purpose="Apparent age group only: not for decisions about individuals.",
    photographs="real faces",
    drawings="faces",
    missing=("No age-group model yet", "crl export runs/cel", "crl demo runs/cel/export/fold0/*.onnx"),
)

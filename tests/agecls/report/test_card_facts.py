"""The face crop that travels with an exported model: told by the run, measured, or a default that says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agecls.faces.alignment import Face
from agecls.faces.crop import FaceCrop
from agecls.faces.detector import DETECTOR_VARIABLE, FaceDetector
from agecls.report import card_facts
from agecls.report.card_facts import FROM_LAYOUT, GIVEN, NOT_MEASURED, face_crop_of
from apps.config import ExportConfig
from finetune.errors import UsageError
from tests.apps.tiny_run import make_run


class WholePicture(FaceDetector):
    """Takes the upper half of every image, as wide as high, for a face."""

    name = "a detector of the tests"

    def detect(self, image):
        half = image.shape[0] / 2
        return [Face((0, 0, half, half), 0.9)]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def record_of(run: Path) -> dict[str, object]:
    return json.loads((run / "run.json").read_text())


def asked_for(monkeypatch: pytest.MonkeyPatch, detector: FaceDetector | None) -> list[str | None]:
    """Make every detector that is built this one; returns the list of those that were asked for."""
    asked: list[str | None] = []
    monkeypatch.setattr(card_facts, "build_detector", lambda path: asked.append(path) or detector)
    return asked


def test_the_pictures_of_a_table_are_measured(run, monkeypatch, capsys):
    asked = asked_for(monkeypatch, WholePicture())
    crop, source = face_crop_of(run, record_of(run), ExportConfig(detector="yunet.onnx"))
    assert source == "measured on the run's own images by a detector of the tests"
    assert asked == ["yunet.onnx"]
    assert crop.style == "plain"
    assert crop != FaceCrop.of("plain")
    shown = " ".join(capsys.readouterr().out.split())
    assert crop.describe() in shown
    assert "a detector of the tests" in shown


def test_a_squeezing_run_gets_the_shape_of_its_pictures(run, monkeypatch):
    asked_for(monkeypatch, WholePicture())
    record = {**record_of(run), "preprocess": {"resize": "warp"}}
    (run / "run.json").write_text(json.dumps(record))
    crop, _ = face_crop_of(run, record, ExportConfig())
    # The box's side is half of the height: half a side above and below, the middle half a side lower.
    assert (crop.margin, crop.drop) == (0.5, 0.5)
    assert crop.aspect != 1


def test_without_a_detector_the_default_is_used_and_it_is_said_how_to_measure(run, monkeypatch, capsys):
    asked_for(monkeypatch, None)
    assert face_crop_of(run, record_of(run), ExportConfig()) == (FaceCrop.of("plain"), NOT_MEASURED)
    shown = " ".join(capsys.readouterr().out.split())
    assert "--detector FILE" in shown
    assert "was not measured" in shown


@pytest.mark.parametrize(
    ("layout", "options", "wanted"),
    [
        ("aligned", {}, FaceCrop.of("aligned")),
        ("faces", {}, FaceCrop.of("faces")),
        (None, {"face_crop": "plain"}, FaceCrop.of("plain")),
        (None, {"face_crop": "faces"}, FaceCrop.of("faces")),
        (None, {"face_margin": 0.1}, FaceCrop("plain", 0.1)),
    ],
)
def test_what_is_known_or_asked_for_is_not_measured(run, monkeypatch, capsys, layout, options, wanted):
    asked = asked_for(monkeypatch, WholePicture())
    record = {**record_of(run), "counts": {"layout": layout}}
    source = GIVEN if options else FROM_LAYOUT
    assert face_crop_of(run, record, ExportConfig(**options)) == (wanted, source)
    assert asked == []
    assert "not measured" not in capsys.readouterr().out


def test_a_detector_that_is_not_there_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.delenv(DETECTOR_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="there is no such file"):
        face_crop_of(run, record_of(run), ExportConfig(detector=str(tmp_path / "none.onnx")))

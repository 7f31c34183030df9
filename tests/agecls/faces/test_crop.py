from __future__ import annotations

import json
import subprocess
import sys

import pytest

from agecls.faces.crop import DEFAULT_DROP, DEFAULT_MARGIN, STYLES, FaceCrop, crop_of_run
from finetune.errors import UsageError


@pytest.mark.parametrize("style", STYLES)
def test_a_rule_survives_json(style):
    rule = FaceCrop.of(style)
    assert (rule.margin, rule.drop) == (DEFAULT_MARGIN[style], DEFAULT_DROP[style])
    assert FaceCrop.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule


def test_adience_faces_have_a_quarter_and_an_aligned_face_has_nothing_to_set():
    assert FaceCrop.of("faces").margin == 0.25
    assert FaceCrop.of("aligned") == FaceCrop("aligned", 0, 0)
    assert FaceCrop.of("plain", 0) == FaceCrop("plain", 0.0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"style": "tilted", "margin": 0.1}, "aligned, faces, plain"),
        ({"style": ["faces"], "margin": 0.1}, "not offered"),
        ({"style": "faces", "margin": "wide"}, "must be a number"),
        ({"style": "faces", "margin": True}, "must be a number"),
        ({"style": "faces", "margin": None}, "must be a number"),
        ({"style": "faces", "margin": float("nan")}, "between 0 and 3"),
        ({"style": "plain", "margin": -0.1}, "between 0 and 3"),
        ({"style": "plain", "margin": 1e9}, "between 0 and 3"),
        ({"style": "plain", "margin": 0.1, "drop": 2}, "drop must lie between -1 and 1"),
        ({"style": "plain", "margin": 0.1, "aspect": 0.19}, "aspect must lie between 0.2 and 5, got 0.19"),
        ({"style": "plain", "margin": 0.1, "aspect": 5.1}, "aspect must lie between 0.2 and 5, got 5.1"),
        ({"style": "faces", "margin": 0.1, "aspect": float("inf")}, "aspect must lie between"),
        ({"style": "faces", "margin": 0.1, "aspect": None}, "aspect must be a number"),
        ({"style": "aligned", "margin": 0.25}, "has no margin"),
        ({"style": "aligned", "margin": 0, "drop": 0.1}, "has no drop"),
        ({"style": "plain"}, "keys must be"),
        ({"style": "plain", "margin": 0.1, "path": "x"}, "keys must be"),
        ([1, 2], "keys must be"),
    ],
)
def test_nonsense_is_refused(values, told):
    with pytest.raises(UsageError, match=told):
        FaceCrop.from_dict(values)


def test_a_region_is_square_unless_said_otherwise():
    assert FaceCrop.from_dict({"style": "plain", "margin": 0.3, "drop": 0.1}) == FaceCrop(
        "plain", 0.3, 0.1, 1.0
    )
    narrow = FaceCrop("faces", 0.25, 0.05, 0.8)
    assert narrow.to_dict() == {"style": "faces", "margin": 0.25, "drop": 0.05, "aspect": 0.8}
    assert FaceCrop.from_dict(narrow.to_dict()) == narrow
    for aspect in (0.2, 5):
        assert FaceCrop("plain", 0.3, aspect=aspect).aspect == aspect


def test_a_run_on_adience_tells_its_archive_and_a_table_is_plain():
    assert crop_of_run({"counts": {"layout": "aligned"}}) == FaceCrop.of("aligned")
    assert crop_of_run({"counts": {"layout": "faces"}}) == FaceCrop.of("faces")
    for run in ({"counts": {"table": "fgnet.csv"}}, {"counts": None}, {}):
        assert crop_of_run(run) == FaceCrop.of("plain")


def test_what_is_asked_for_overrules_the_run():
    run = {"counts": {"layout": "aligned"}}
    assert crop_of_run(run, "plain", 0.1) == FaceCrop("plain", 0.1)
    assert crop_of_run({"counts": {"layout": "faces"}}, margin=0.5).margin == 0.5
    with pytest.raises(UsageError, match="has no margin"):
        crop_of_run(run, margin=0.1)
    with pytest.raises(UsageError, match="not offered"):
        crop_of_run(run, "round")


def test_a_rule_is_told_in_words():
    assert FaceCrop("plain", 0.145, -0.123).describe().endswith("14.5 % of the face box added on every side, "
                                                                "moved 12.3 % up")  # fmt: skip
    assert FaceCrop("plain", 0.3, 0.1, 0.8).describe() == (
        "plain, 30 % of the face box added above and below, 0.8 times as wide as high, moved 10 % down"
    )
    assert "template" in FaceCrop.of("aligned").describe()


def test_the_rule_needs_neither_opencv_nor_torch():
    code = "import sys, agecls.faces.crop; sys.exit(bool({'cv2', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The demo's page of an audit: what it says at each challenge age, and files that no audit wrote."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from agecls.audit.config import AuditConfig
from agecls.audit.score import score_answers
from apps.demo.audit import Audit, audit_html, nearest_age, read_audit
from finetune.errors import DataError
from tests.agecls.audit.made_answers import answers, spread_answers


def record(scored: dict[str, Any], folder: Path) -> Path:
    (folder / "audit.json").write_text(json.dumps({**scored, "notes": ["a <note>"]}), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def scored() -> dict[str, Any]:
    config = AuditConfig(resamples=20, permutations=2, name="ours & <theirs>")
    return score_answers(spread_answers(240), config) | {"name": "ours & <theirs>"}


@pytest.fixture
def audit(scored: dict[str, Any], tmp_path: Path) -> Audit:
    return read_audit(record(scored, tmp_path))


def test_the_page_shows_the_measured_rates_of_the_sliders_age(audit: Audit, scored: dict[str, Any]):
    for challenge in (18, 25, 35):
        text = audit_html(audit, challenge)
        row = next(one for one in scored["challenge_ages"] if one["challenge"] == challenge)
        for kind in ("fpr", "burden"):
            rate = row[kind]
            assert f"{rate['percent']:.1f} % [{rate['low']:.1f}, {rate['high']:.1f}]" in text
            assert f"{rate['hits']} of {rate['images']} images, {rate['units']} people" in text
        assert row["shows"].split(".")[0] in text
        assert f"Taken for {challenge} or older, by true age" in text


def test_the_fragment_is_well_formed_and_text_is_harmless(audit: Audit):
    text = audit_html(audit, 25)
    root = ET.fromstring(text)
    assert len(root.findall(".//svg")) == 2
    assert "ours &amp; &lt;theirs&gt;" in text
    assert "a &lt;note&gt;" in text
    ids = [item.get("id") for item in root.iter() if item.get("id")]
    assert len(ids) == len(set(ids))
    marker = next(line for line in root.iter("polyline") if line.get("class") == "line at")
    assert len({point.split(",")[0] for point in marker.get("points", "").split()}) == 1


@pytest.mark.parametrize(
    ("asked", "shown"), [(25, 25), (25.4, 25), (99, 35), (-1, 18), (None, 25), ("x", 25), (True, 25)]
)
def test_whatever_the_slider_says_an_age_of_the_audit_is_shown(audit: Audit, asked: object, shown: int):
    assert nearest_age(audit, asked) == shown
    assert nearest_age(audit, float("nan")) == 25


def test_an_audit_without_minors_is_shown_too(tmp_path: Path):
    alone = score_answers(answers([30, 40], [31, 39]), AuditConfig(resamples=2, permutations=2))
    text = audit_html(read_audit(record(alone, tmp_path)), 25)
    assert "not measured" in text
    assert "There are no images to show anything" in text


@pytest.mark.parametrize(
    "change",
    [
        {"challenge_ages": []},
        {"challenge_ages": [{"challenge": "<b>"}]},
        {"headline": 99},
        {"unit": "<b>"},
        {"pass_rates": [{"true_age": "1e400", "at": {}}]},
        {"minor_band": ["a", "b"]},
    ],
)
def test_files_that_no_audit_wrote_are_refused(
    scored: dict[str, Any], tmp_path: Path, change: dict[str, Any]
):
    with pytest.raises(DataError, match="holds no audit that this page can show"):
        read_audit(record({**scored, **change}, tmp_path))


def test_a_folder_without_an_audit_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"is not there: --audit takes the folder"):
        read_audit(tmp_path)

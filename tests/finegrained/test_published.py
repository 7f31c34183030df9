"""Scores that others reported, and beside which runs they stand."""

from __future__ import annotations

from typing import Any

from finegrained.config import FineStudyConfig
from finegrained.task import TASK


def shown(report: dict[str, Any]) -> dict[str, str]:
    """Return the scores of others on a study's page; `report` is that of a cell."""
    return dict(TASK.study_text(FineStudyConfig(), report).published)


def test_published_scores_stand_beside_official_pictures_alone(monkeypatch):
    report = {"head": "dcl", "backbone": "resnet50.tv_in1k", "data_set": "cub", "policy": "cub"}
    monkeypatch.setattr("finegrained.report_sections.reported_by_others", lambda _: None)
    assert shown(report) == {}
    monkeypatch.setattr("finegrained.report_sections.reported_by_others", lambda _: "a table")
    assert shown(report) == {
        "cel": "87.80 (CRL paper, Table IX, ResNet-50, one run, 87.69 when rerun there)",
        "crl": "87.84 (CRL paper, Table IX, ResNet-50, one run)",
    }
    assert shown(report | {"backbone": "resnet34"}) == {}
    assert shown(report | {"head": "linear"}) == {}

"""What an export that was stopped left behind: finished files are checked and kept, the rest is made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import apps.export.former
import apps.export.run
from apps.config import ExportConfig
from apps.export.plan import Plan
from apps.export.run import export_run
from apps.runtime.session import OnnxClassifier
from finetune.errors import ModelFileError, UsageError

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture
def stopped(run: Path, tmp_path: Path) -> Path:
    """What a call of --all left that was stopped after fold 0, within the file of fold 1."""
    export_run(run, ExportConfig(fold=0, out=str(tmp_path)))
    (tmp_path / "fold1").mkdir()
    (tmp_path / "fold1" / ".crl-1-deadbeef.tmp").write_bytes(b"half a file")
    return tmp_path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders of files that are made anew; nothing is written."""
    names: list[str] = []

    def note(folder: Path, plan: Plan, *others: Any) -> dict[str, Any]:
        names.append(plan.place.name)
        return {"title": plan.title, "precision": "fp32", "size_bytes": 1, "file": str(plan.target)}

    monkeypatch.setattr(apps.export.run, "export_model", note)
    return names


def test_a_stopped_export_goes_on(
    run: Path, stopped: Path, made: list[str], capsys: pytest.CaptureFixture[str]
):
    file = stopped / "fold0" / "tiny-run-fold-0.onnx"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    exports = export_run(run, ExportConfig(all=True, out=str(stopped)))["exports"]
    assert made == ["fold1", "fold2", "fold3", "fold4"]
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert f"{file} is of this run, whole and checked: kept" in capsys.readouterr().out
    assert [Path(one["file"]).parent.name for one in exports] == ["fold0", *made]
    assert exports[0]["size_bytes"] == len(before[0])


def test_what_is_left_of_a_half_written_file_goes(run: Path, stopped: Path):
    export_run(run, ExportConfig(fold=1, out=str(stopped)))
    assert sorted(file.name for file in (stopped / "fold1").iterdir()) == [
        "README.md",
        "tiny-run-fold-1.onnx",
    ]


def test_a_file_without_its_card_is_made_again(run: Path, stopped: Path, made: list[str]):
    (stopped / "fold0" / "README.md").unlink()
    export_run(run, ExportConfig(fold=0, out=str(stopped)))
    assert made == ["fold0"]


def test_a_damaged_file_is_refused(run: Path, stopped: Path, made: list[str]):
    file = stopped / "fold0" / "tiny-run-fold-0.onnx"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"(cannot be read|is not the card of).*: replace it by --overwrite"):
        export_run(run, ExportConfig(all=True, out=str(stopped)))
    file.write_bytes(content[:-100])
    with pytest.raises(UsageError, match=r"cannot be read.*: replace it by --overwrite"):
        export_run(run, ExportConfig(all=True, out=str(stopped)))
    assert made == []


def test_an_export_of_other_weights_or_wishes_is_refused(
    run: Path, stopped: Path, made: list[str], monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UsageError, match=r"differs from this one in --images: replace it by --overwrite"):
        export_run(run, ExportConfig(fold=0, images=16, out=str(stopped)))
    with pytest.raises(UsageError, match=r"differs from this one in crop"):
        export_run(run, ExportConfig(fold=0, face_crop="plain", face_margin=0.3, out=str(stopped)))
    load = apps.export.former.load_members

    def trained_again(plan: Plan, record: Any) -> Any:
        members, cores, spec = load(plan, record)
        return [replace(member, weights="0" * 64) for member in members], cores, spec

    monkeypatch.setattr(apps.export.former, "load_members", trained_again)
    with pytest.raises(UsageError, match=r"differs from this one in data: replace it by --overwrite"):
        export_run(run, ExportConfig(all=True, out=str(stopped)))
    assert made == []


def test_a_coarser_fp16_file_is_accepted_where_asked_for(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(apps.export.run, "FP16_TOLERANCE", 1e-7)
    options = {"fold": 0, "precision": "fp16", "out": str(tmp_path)}
    with pytest.raises(ModelFileError, match=r"too coarse.*--max_difference \(now 1e-07\) accepts"):
        export_run(run, ExportConfig(max_difference=1e-7, **options))
    (one,) = export_run(run, ExportConfig(max_difference=0.03, **options))["exports"]
    parity = OnnxClassifier(one["file"], device="cpu").facts.parity
    assert (parity["tolerance"], parity["usual_tolerance"]) == (0.03, 1e-7)
    card = Path(one["file"]).with_name("README.md").read_text(encoding="utf-8")
    assert (
        "may differ from the trained model's by 0.03 of the largest: the usual limit of 1e-07 was raised"
        in card
    )
    export_run(run, ExportConfig(max_difference=0.03, **options))
    with pytest.raises(UsageError, match="differs from this one in --max_difference"):
        export_run(run, ExportConfig(max_difference=0.02, **options))

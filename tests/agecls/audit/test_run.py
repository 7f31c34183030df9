from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

import agecls
from agecls.audit.answers import read_answers
from agecls.audit.config import AuditConfig
from agecls.audit.cross import cross_matrix
from agecls.audit.run import audit
from agecls.commands import main
from apps.runtime.session import OnnxClassifier
from finetune.errors import DataError, UsageError
from tests.agecls.audit.made_answers import answers, spread_answers, write_csv
from tests.apps.live_demo import picture
from tests.apps.tiny_onnx import tiny_facts, write_tiny
from tests.finetune.drawing import pixels_of

YEARS = tuple(map(str, range(10, 40)))


@pytest.fixture(autouse=True)
def _unpictured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out, which take most of the time, but where a test is about them."""
    if "made" not in request.fixturenames:
        monkeypatch.setattr("agecls.audit.figures.draw_figures", lambda *_: [])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of another system's answers, written by the command."""
    folder = tmp_path_factory.mktemp("audit")
    file = write_csv(folder / "theirs.csv", spread_answers(240), camera=["x|<i>", "y"] * 120)
    words = [str(file), "--data.slice_columns", "camera", "--resamples", "20", "--permutations", "5"]
    assert main(["audit", *words, "--out", str(folder / "out")]) == 0
    return folder / "out"


def test_the_folder_has_page_numbers_tables_and_figures(made: Path):
    scored = json.loads((made / "audit.json").read_text(encoding="utf-8"))
    assert scored["unit"] == "people"
    for name in scored["pictures"]:
        pixels_of(made / name)
    assert [Path(name).stem for name in scored["pictures"]] == [
        "challenge",
        "trade_off",
        "pass_rate",
        "cells",
    ]
    with (made / "challenge_ages.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["challenge"]) for row in rows] == scored["challenge"]
    wanted = [row["fpr"]["percent"] for row in scored["challenge_ages"]]
    assert [float(row["fpr_percent"]) for row in rows] == pytest.approx(wanted)
    assert {file.name for file in made.glob("*.csv")} == {
        f"{name}.csv" for name in ("challenge_ages", "pass_rates", "cells", "slices")
    }


def test_the_page_says_what_n_shows_and_uses_no_refused_word(made: Path):
    text = (made / "audit.md").read_text(encoding="utf-8")
    assert "**What n can show**" in text
    assert "it takes 299 people" in text
    assert "no legal advice" in text
    assert re.search(r"\b(passes|certified)\b", text) is None
    assert "x\\|&lt;i&gt;" in text
    assert "shuffled labels" in text


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x", encoding="utf-8")
    file = write_csv(tmp_path / "a.csv", spread_answers(20))
    with pytest.raises(UsageError, match="something else than an audit"):
        audit(file, AuditConfig(out=str(tmp_path / "out")))


def test_a_model_needs_the_program_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_tiny(tmp_path / "m.onnx", tiny_facts(class_names=YEARS))
    assert main(["audit", str(file)], prog="crl age") == 2
    assert "by the program crl" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"give --data\.table"):
        agecls.audit_ages(OnnxClassifier(file, device="cpu", threads=1))


def test_an_exported_model_is_shown_every_age_of_a_table(tmp_path: Path):
    model = OnnxClassifier(
        write_tiny(tmp_path / "m.onnx", tiny_facts(class_names=YEARS)), device="cpu", threads=1
    )
    rows = ["path,age,subject,gender,race"]
    for row in range(8):
        (tmp_path / f"{row}.png").write_bytes(picture(row))
        rows.append(f"{row}.png,{[7, 15, 17, 18, 23, 30, 57, 70][row]},s{row // 2},m,{'ab'[row % 2]}")
    (tmp_path / "faces.csv").write_text("\n".join(rows), encoding="utf-8")
    found = agecls.audit_ages(
        model,
        table=tmp_path / "faces.csv",
        data={"gender_column": "gender", "slice_columns": ["race"]},
        robustness=2,
        identity_leak=True,
        resamples=5,
        permutations=2,
        out=tmp_path / "out",
    )
    assert (found["images"], found["units"]) == (8, 4)  # 23 and 57 are in gaps of Adience's groups
    expected = model.predict(tmp_path / "1.png", test_crops="run")[0].probs @ list(map(int, YEARS))
    answer = next(row for row in found["pass_rates"] if row["true_age"] == 15)
    assert answer["at"]["18"] == 100.0 * (expected >= 18)
    assert found["robustness"]["images"] == 2
    assert found["identity_leak"]["rows"][0]["same_pairs"] == 3  # 17 and 18 are too near
    assert [row["label"] for row in found["fairness"]] == ["race"]


def test_the_identity_leak_needs_people_and_outputs(tmp_path: Path):
    file = write_csv(tmp_path / "a.csv", spread_answers(20))
    with pytest.raises(DataError, match="predicted ages alone"):
        audit(file, AuditConfig(identity_leak=True, out=str(tmp_path / "o"), permutations=2, resamples=2))


def test_the_matrix_of_data_sets_by_hand(tmp_path: Path):
    for name, error in (("aa", 2), ("ab", 6), ("bb", 4), ("ba", 9)):
        write_csv(tmp_path / f"{name}.csv", answers([20, 30], [20 + error, 30 - error]))
    lines = ["trained_on,tested_on,answers"]
    lines += [f"{one},{other},{one}{other}.csv" for one in "ab" for other in "ab"]
    (tmp_path / "cross.csv").write_text("\n".join(lines), encoding="utf-8")
    found = cross_matrix(tmp_path / "cross.csv", lambda file, _: read_answers(file, AuditConfig()))
    assert (found["diagonal"], found["off_diagonal"], found["ratio"]) == (3.0, 7.5, 2.5)
    (tmp_path / "cross.csv").write_text("\n".join([*lines, lines[-1]]), encoding="utf-8")
    with pytest.raises(DataError, match="stand there twice"):
        cross_matrix(tmp_path / "cross.csv", lambda file, _: read_answers(file, AuditConfig()))

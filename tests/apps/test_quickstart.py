from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from apps.cli import main
from apps.config import DemoConfig, ExportConfig, QuickstartConfig
from apps.quickstart import (
    EXAMPLES,
    LOSSES,
    MADE,
    MARKER,
    choose_examples,
    claim,
    draw_faces,
    loss_config,
    run_quickstart,
)
from finetune.cli.console import reset
from finetune.errors import UsageError
from finetune.images.manifest import Manifest
from finetune.training.config import to_dict
from tests.apps.tiny_onnx import tiny_facts, write_tiny

pytestmark = pytest.mark.usefixtures("undrawn")

TINY = QuickstartConfig(users=10, epochs=1, port=45670)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Path], DemoConfig]]:
    """Exports that take no time, and a demo that only notes what it was asked to show."""
    calls: list[tuple[list[Path], DemoConfig]] = []

    def export_run(folder: Path, config: ExportConfig) -> dict[str, Any]:
        assert config.fold == 0
        assert config.title is not None
        place = folder / "export" / "fold0"
        place.mkdir(parents=True, exist_ok=True)
        file = write_tiny(place / "model.onnx", tiny_facts(title=config.title))
        return {"exports": [{"file": str(file)}]}

    def serve_demo(models: list[Path], config: DemoConfig) -> dict[str, Any]:
        calls.append((models, config))
        return {"stopped": True}

    for name, work in (("apps.export.run", export_run), ("apps.demo.page", serve_demo)):
        module = ModuleType(name)
        setattr(module, work.__name__, work)
        monkeypatch.setitem(sys.modules, name, module)
    return calls


def test_three_losses_are_cross_validated_compared_exported_and_shown(served, capsys, tmp_path):
    from apps.runtime.session import OnnxClassifier

    folder = tmp_path / "demo"
    made = run_quickstart(replace(TINY, dir=str(folder)))
    told = capsys.readouterr().out
    assert set(made["runs"]) == {"cel", "nllr", "crl"}
    images = len(list(folder.rglob("aligned/*/*.jpg")))
    assert {report["n"] for report in made["runs"].values()} == {made["comparison"]["n"]} == {images}
    assert [c["names"][1].split()[0] for c in made["comparisons"]] == ["crl", "nllr"]
    assert [c["names"][0] for c in made["comparisons"]] == ["cel", "cel"]
    assert all(comparison["controlled"] for comparison in made["comparisons"])
    titles = [OnnxClassifier(model).title for model in made["models"]]
    assert titles == ["CE on drawn faces", "NLLR on drawn faces", "CRL on drawn faces"]
    reports = [folder / loss / "report.md" for loss in ("cel", "nllr", "crl")]
    for place in (*reports, *made["models"], *(c["page"] for c in made["comparisons"])):
        assert Path(place).is_file()
        assert str(place) in told
    assert "these are drawings" in told
    assert "crl age cv --data.table faces.csv" in told
    [(models, config)] = served
    assert [str(model) for model in models] == made["models"]
    assert config.examples == made["examples"] == str(folder / "examples")
    assert config.cropped
    assert f"http://127.0.0.1:{config.port}" in told
    assert made["demo"] == {"stopped": True}
    assert {entry.name for entry in folder.iterdir()} == {MARKER, *MADE}  # all of it may be made again
    runs = {file: file.stat().st_mtime_ns for file in folder.glob("*/fold*/model.safetensors")}
    again = run_quickstart(replace(TINY, dir=str(folder)))
    assert "fold 4: finished earlier, not run again" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in runs} == runs
    assert again["comparison"] == made["comparison"]


def test_without_serving_the_command_that_serves_is_named(served, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("apps.quickstart.train", lambda *_: {})
    monkeypatch.setattr("apps.quickstart.compare", lambda *_: {"page": "compare.md"})
    monkeypatch.setattr("apps.quickstart.copy_examples", lambda *_: [])
    folder = tmp_path / "a demo"
    try:
        code = main(["quickstart", "--dir", str(folder), "--users", "10", "--no-serve", "--json"])
    finally:
        reset()
    out, told = capsys.readouterr()
    made = json.loads(out)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert served == []
    assert made["demo"] is None
    assert (
        shlex.join(["crl", "demo", *made["models"], "--examples", str(folder / "examples"), "--cropped"])
        in told
    )
    assert "http" not in told


def test_the_page_takes_the_next_free_port(served, tmp_path, monkeypatch):
    import socket

    from apps.quickstart import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        serve(replace(TINY, port=port), [], tmp_path)
    assert served[0][1].port > port


def test_examples_are_other_people_of_fold_0_from_every_group():
    rows = 120  # two images a person, people of one group in one fold
    person = np.arange(rows) // 2
    columns = {
        "path": np.array([f"{row}.jpg" for row in range(rows)]),
        "label": person // 2 % 6,
        "fold": person % 2,
        "subject": person.astype(str),
    }
    manifest = Manifest(Path(), tuple("abcdef"), columns)
    chosen = choose_examples(manifest)
    assert len(chosen) == EXAMPLES
    assert set(manifest["fold"][chosen]) == {0}
    assert len(set(manifest["subject"][chosen])) == EXAMPLES
    assert manifest.label[chosen].tolist() == [*range(6), *range(6)]
    assert len(choose_examples(manifest.select(np.arange(8)))) == 2


def test_the_copied_examples_lie_under_their_true_group(served, tmp_path):
    from agecls.data.adience import read_adience
    from agecls.synthetic.adience import write_lookalike_adience
    from apps.quickstart import copy_examples

    write_lookalike_adience(tmp_path / "faces", users=10, images_per_subject=1, image_size=16)
    manifest = read_adience(tmp_path / "faces").manifest
    (tmp_path / "run").mkdir()
    manifest.save(tmp_path / "run" / "manifest.parquet")
    (tmp_path / "run" / "run.json").write_text(f'{{"data_root": "{tmp_path / "faces"}"}}')
    copies = copy_examples(tmp_path / "run", tmp_path / "examples")
    bytes_of = {manifest.file(row).read_bytes(): row for row in range(len(manifest))}
    rows = [bytes_of[copy.read_bytes()] for copy in copies]
    assert [copy.parent.name for copy in copies] == [
        manifest.class_names[manifest.label[row]] for row in rows
    ]
    assert set(manifest["fold"][rows]) == {0}


def test_only_the_loss_differs_between_the_runs(tmp_path):
    cel, *others = (to_dict(loss_config(TINY, tmp_path, tmp_path, loss)) for loss in LOSSES)
    for other in others:
        assert [name for name in cel if cel[name] != other[name]] == ["loss", "run"]
        assert {name for name in cel["run"] if cel["run"][name] != other["run"][name]} == {"dir"}


def test_the_same_quickstart_goes_on_and_another_replaces_it(tmp_path, capsys):
    config = replace(TINY, dir=str(tmp_path / "demo"))
    folder = claim(config)
    for name in ("crl", "examples"):
        (folder / name).mkdir()
        (folder / name / "old").touch()
    assert claim(replace(config, serve=False, port=1)) == folder
    assert (folder / "crl" / "old").is_file()
    assert "holds this quickstart already: what is finished is kept" in capsys.readouterr().out
    assert [file.name for file in claim(replace(config, seed=1)).iterdir()] == [MARKER]
    assert (
        "holds a quickstart of other settings, or of another release: it is replaced"
        in capsys.readouterr().out
    )


def test_faces_half_drawn_are_drawn_again(tmp_path):
    config = replace(TINY, dir=str(tmp_path))
    (tmp_path / "lookalike").mkdir()
    (tmp_path / "lookalike" / "half").touch()
    faces = draw_faces(config, tmp_path)
    assert not (faces / "half").exists()
    before = {file: file.stat().st_mtime_ns for file in faces.rglob("*")}
    assert draw_faces(config, tmp_path) == faces
    assert {file: file.stat().st_mtime_ns for file in faces.rglob("*")} == before


def test_what_a_person_put_beside_the_results_is_never_removed(tmp_path):
    config = replace(TINY, dir=str(tmp_path / "demo"))
    folder = claim(config)
    (folder / "runs").mkdir()
    (folder / "crl").mkdir()
    with pytest.raises(UsageError, match=r"not a quickstart's \(runs\)"):
        claim(config)
    assert (folder / "crl").is_dir()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="give --dir another folder"):
        claim(replace(TINY, dir=str(tmp_path)))
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        claim(replace(TINY, dir=str(tmp_path / "demo")))

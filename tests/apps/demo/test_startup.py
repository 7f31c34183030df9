from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from apps.config import DemoConfig
from apps.demo import startup as demo_start
from apps.demo import theme as demo_look
from apps.demo.examples import read_examples
from apps.demo.uploads import UploadFolder
from finetune.cli.machine import core_count
from finetune.errors import ModelFileError, UsageError
from tests.apps.live_demo import picture
from tests.apps.tiny_onnx import tiny_facts, write_tiny

ROOT = Path(__file__).resolve().parents[3]
CPU = DemoConfig(device="cpu")


def test_models_go_to_the_tab_of_their_task_and_are_said(tmp_path, capsys):
    bird = tiny_facts(title="bird", task="category", crop=None)
    paths = [write_tiny(tmp_path / "a.onnx"), write_tiny(tmp_path / "b.onnx", bird)]
    found = demo_start.load_models(paths, CPU)
    assert {task: [model.title for model in models] for task, models in found.items()} == {
        "age": ["tiny"],
        "category": ["bird"],
    }
    said = capsys.readouterr().out
    assert "Age groups: tiny, 8 classes" in said
    assert said.count("using cpu") == 1


@pytest.mark.parametrize(("asked", "threads"), [(0, 1), (1, core_count()), (10_000, 1)])
def test_models_share_the_cores_among_the_requests(tmp_path, monkeypatch, asked, threads):
    given = []
    real = demo_start.OnnxClassifier

    def note(path, *, device, threads):
        given.append(threads)
        return real(path, device=device, threads=threads)

    monkeypatch.setattr(demo_start, "OnnxClassifier", note)
    demo_start.load_models([write_tiny(tmp_path / "a.onnx")], DemoConfig(device="cpu", concurrency=asked))
    assert given == [threads]


def test_without_a_model_it_says_what_to_give():
    with pytest.raises(UsageError, match="crl export"):
        demo_start.load_models([], CPU)


def test_classes_that_differ_within_a_tab_are_refused(tmp_path):
    other = write_tiny(tmp_path / "b.onnx", tiny_facts(class_names=("young", "old")))
    with pytest.raises(ModelFileError, match="different classes"):
        demo_start.load_models([write_tiny(tmp_path / "a.onnx"), other], CPU)


def test_only_uploads_and_examples_are_opened(tmp_path):
    (tmp_path / "in").mkdir()
    example, secret = tmp_path / "in" / "a.png", tmp_path / "secret.png"
    for file in (example, secret):
        file.write_bytes(picture(1))
    models = demo_start.load_models([write_tiny(tmp_path / "m.onnx", tiny_facts(crop=None))], CPU)
    with UploadFolder(tmp_path) as folder:
        upload = folder.new_file("up.png")
        upload.write_bytes(picture(2))
        examples = {"age": read_examples(tmp_path / "in", ())}
        service = demo_start.build_services(models, examples, folder, CPU)["age"]
        answer = service.answer([upload, example, secret])
    assert [row.name for row in answer.rows] == ["up.png", "a.png"]
    assert [name for name, _ in answer.errors] == ["secret.png"]


@pytest.mark.parametrize("values", [{"keep_minutes": 0}, {"queue": 0}, {"concurrency": -1}])
def test_numbers_that_cannot_be_right_are_refused(values):
    with pytest.raises(UsageError):
        demo_start.check_numbers(DemoConfig(**values))
    demo_start.check_numbers(DemoConfig())


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("::", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),
        ("me.local", "me.local"),
    ],
)
def test_the_address_can_be_opened(host, shown):
    assert demo_start.address(host, 80) == f"http://{shown}:80/"


def test_the_pages_files_are_packaged():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = data["tool"]["setuptools"]["package-data"]["apps.demo"]
    assert {demo_look.STYLESHEET.name, demo_look.FAVICON.name} <= set(packaged)


def test_models_of_the_same_classes_in_another_order_share_a_tab(tmp_path, capsys):
    given = {"task": "category", "ordered": False, "crop": None}
    names = ("Audi", "BMW", "Fiat")
    paths = [
        write_tiny(tmp_path / f"{title}.onnx", tiny_facts(title=title, class_names=order, **given))
        for title, order in (("one", names), ("two", names[::-1]))
    ]
    found = demo_start.load_models(paths, CPU)["category"]
    assert [model.class_names for model in found] == [names, names]
    assert "note: two: classes put into the order of one, by their names" in capsys.readouterr().out

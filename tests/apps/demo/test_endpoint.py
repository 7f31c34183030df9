from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

import apps.demo.service
from apps.demo.endpoint import answer_call, still_waits
from apps.demo.service import DemoService
from apps.runtime.session import OnnxClassifier
from tests.apps.live_demo import picture
from tests.apps.tiny_onnx import tiny_facts, write_tiny


def job(session: str, alive: bool) -> SimpleNamespace:
    return SimpleNamespace(session_hash=session, alive=alive)


@pytest.mark.parametrize(
    ("jobs", "waits"),
    [
        ([None, [job("a", True)]], True),
        ([[job("a", False)], None], False),
        ([[job("b", False)]], True),
        ([], True),
        ([[job("a", False), job("a", True)]], True),
    ],
)
def test_a_visitor_has_left_when_all_jobs_of_the_visit_are_dead(jobs: list[object], waits: bool) -> None:
    blocks = SimpleNamespace(_queue=SimpleNamespace(active_jobs=jobs))
    assert still_waits(blocks, "a")() is waits


def test_without_a_queue_everybody_waits() -> None:
    assert still_waits(None, None)()


def test_the_work_ends_when_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode, seen = apps.demo.service.decode_guarded, list[str]()
    monkeypatch.setattr(
        apps.demo.service,
        "decode_guarded",
        lambda path, **options: seen.append(path.name) or decode(path, **options),
    )
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for number, file in enumerate(files):
        file.write_bytes(picture(number))
    made = write_tiny(tmp_path / "m.onnx", tiny_facts(crop=None))
    service = DemoService([OnnxClassifier(made, device="cpu")], None, owns=lambda _: True)
    told = answer_call({"age": service}, [str(file) for file in files], waits=lambda: len(seen) < 2)
    assert seen == ["0.png", "1.png"]
    assert told["pictures"] == []
    assert "nobody waits" in told["errors"][0]["reason"]
    runs = service.answer(files, waits=iter([True] * 4 + [False]).__next__)
    assert runs.rows == ()
    assert "nobody waits" in runs.errors[0][1]
    assert len(service.answer(files).rows) == 4

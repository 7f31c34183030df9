"""The page as a program: started, asked and stopped from outside; nothing of gradio enters this process."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.apps.live_demo import live_demo, picture, unused_port
from tests.apps.tiny_onnx import GROUPS, tiny_facts, write_tiny

ROOT = Path(__file__).resolve().parents[3]
BIRDS = tuple(f"bird {number}" for number in range(30))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = [
        write_tiny(folder / f"{title}.onnx", tiny_facts(title=title), seed=number)
        for number, title in enumerate(("CE", "CRL"))
    ]
    birds = tiny_facts(title="birds", task="category", class_names=BIRDS, ordered=False, crop=None)
    return [*made, write_tiny(folder / "birds.onnx", birds)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory, files):
    home = tmp_path_factory.mktemp("home")
    examples = home / "examples" / "60+"
    examples.mkdir(parents=True)
    (examples / "old.png").write_bytes(picture(7))
    with live_demo(home, files, "--examples", str(home / "examples")) as demo:
        yield demo


@pytest.fixture(scope="module")
def config(demo):
    return demo.ask("GET", "/config").json


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "apps.cli", "demo", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_the_door_is_closed_until_gradio_is_asked_for():
    code = "import sys, apps.demo.page; sys.exit(any(name in sys.modules for name in ('gradio', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_it_says_what_it_serves(demo):
    assert "Age groups: CE, 8 classes" in demo.said
    assert "Fine-grained: birds, 30 classes" in demo.said
    assert "Ctrl-C stops the demo" in demo.said


def test_the_page_has_its_three_tabs_and_nothing_from_elsewhere(demo, config):
    page = demo.ask("GET", "/")
    assert page.status == 200
    tabs = [part["props"]["label"] for part in config["components"] if part["type"] == "tabitem"]
    assert tabs == ["Age groups", "Fine-grained", "Loss explorer"]
    theme = demo.ask("GET", "/theme.css").text
    assert not re.search(r"url\(\s*['\"]?https?:", theme)
    assert "@font-face" not in theme
    assert config["stylesheets"] == []
    assert demo.ask("GET", "/favicon.ico").body.startswith(b"<svg")


def test_outputs_are_html_and_files_only(config):
    kinds = {part["type"] for part in config["components"]}
    assert not kinds & {"image", "plot", "gallery", "label", "dataframe", "annotatedimage", "markdown"}


def test_only_predict_is_public(demo, config):
    assert set(demo.ask("GET", "/gradio_api/info").json["named_endpoints"]) == {"/predict"}
    visible = {item["api_name"]: item["api_visibility"] for item in config["dependencies"]}
    assert {name for name, kind in visible.items() if kind == "public"} == {"predict"}


def test_what_reaches_beyond_this_machine_is_off(config):
    assert config["analytics_enabled"] is False
    assert config["show_error"] is False
    assert config["space_id"] is None
    assert config["run_history"] is False
    assert not config.get("mcp_server")
    assert config["footer_links"] == []


def test_predict_answers_what_the_network_says(demo):
    answer = demo.predict([("a.png", picture(1))], ["CRL"])
    [seen] = answer["pictures"]
    assert set(seen) == {"name", "face", "box", "true", "models", "warnings"}
    assert answer["status"].startswith("1 image, 1 model, ")
    probs = seen["models"]["CRL"]["probs"]
    assert list(probs) == list(GROUPS)
    assert sum(probs.values()) == pytest.approx(1, abs=1e-5)


def test_the_models_title_chooses_the_tab(demo):
    [seen] = demo.predict([("a.png", picture(1))], ["birds"])["pictures"]
    assert len(seen["models"]["birds"]["probs"]) == len(BIRDS)


def test_the_button_gives_cards_heat_maps_and_both_downloads(demo, tmp_path):
    path = demo.upload([("face.png", picture(2))]).json[0]
    html, table, drawing = demo.press(path, ["CE", "CRL"])
    assert "crl-card" in html
    assert "crl-heat" in html
    assert Path(table).read_text(encoding="utf-8").startswith("image,model,true class,predicted class,0-2")
    assert Path(drawing).read_bytes().startswith(b"\x89PNG")
    for file in (table, drawing):
        reply = demo.ask("GET", f"/gradio_api/file={file}")
        assert reply.body == Path(file).read_bytes()


def test_an_example_knows_its_class_wherever_it_comes_from(demo):
    [seen] = demo.predict([("again.png", picture(7))])["pictures"]
    assert seen["true"] == "60+"


def test_sliders_redraw_the_curves(demo, config):
    event = next(item for item in config["dependencies"] if item["api_name"] == "redraw")
    assert len(event["inputs"]) == 3
    assert event["queue"] is False


@pytest.mark.alone
@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)]
)
def test_it_is_up_within_seconds_stops_when_told_and_leaves_nothing(tmp_path, files, number):
    """Five seconds on an idle machine; a busy one gets four times that."""
    start = time.perf_counter()
    with live_demo(tmp_path, files) as demo:
        assert time.perf_counter() - start < 20
        demo.upload([("a.png", picture(1))])
        assert demo.files()
        demo.process.send_signal(number)
        assert demo.process.wait(20) == 0
        assert "stopped; the uploaded images are removed" in demo.said
    assert not list(tmp_path.glob("crl-demo-*"))


@pytest.mark.exhaustive  # five seconds
def test_check_answers_one_picture_over_the_port_and_stops(files):
    ended = run(*map(str, files[:2]), "--check", "--json", "--port", str(unused_port()))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert told["models"] == {"age": ["CE", "CRL"]}
    assert set(told["check"]["pictures"][0]["models"]) == {"CE", "CRL"}
    assert "checked: http://127.0.0.1:" in ended.stderr


def test_different_classes_in_one_tab_are_refused_at_the_start(files, tmp_path):
    other = write_tiny(tmp_path / "other.onnx", tiny_facts(class_names=("young", "old")))
    ended = run(str(files[0]), str(other), "--port", str(unused_port()))
    assert ended.returncode == 4
    assert "different classes" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--examples", "nowhere"], 2, "there is no such folder"),
        (["--keep-minutes", "0"], 2, "above 0"),
        (["--host", "0.0.0.0"], 2, "--auth"),
        (["--detector", "nowhere.onnx"], 2, "there is no such file"),
    ],
)
def test_options_that_cannot_be_right_are_refused(files, words, code, said):
    ended = run(str(files[0]), "--port", str(unused_port()), *words)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr

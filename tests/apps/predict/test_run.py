from __future__ import annotations

import csv
import io
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from agecls.faces.alignment import Face, crop_face
from agecls.faces.crop import FaceCrop
from apps.commands import COMMANDS
from apps.config import PredictConfig
from apps.predict.run import ThreadDetectors, predict_paths, split_words
from apps.runtime.session import OnnxClassifier
from finetune.cli.command import run_command
from finetune.cli.console import reset
from finetune.errors import DataError, InterruptedRunError, ModelFileError, UsageError
from finetune.images.decode import decode_image
from tests.apps.tiny_onnx import SPEC, expected_probs, tiny_facts, write_tiny
from tests.apps.video import write_video


@pytest.fixture(autouse=True)
def _speak():
    yield
    reset()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two models, four images and no face detector anywhere."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CRL_FACE_DETECTOR", raising=False)
    write_tiny(tmp_path / "a.onnx", tiny_facts(title="CE"))
    write_tiny(tmp_path / "b.onnx", tiny_facts(title="CRL"), seed=1)
    (tmp_path / "photos").mkdir()
    random = np.random.default_rng(0)
    for number in range(1, 5):
        pixels = random.integers(0, 256, (40, 36 + number, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.png"), pixels)
    return tmp_path


def crl(*words: str) -> int:
    return run_command(COMMANDS["predict"], words, prog="crl predict")


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_bytes().decode(), newline="")))


def feed(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


def test_a_folder_goes_to_a_csv_with_the_models_own_probabilities(home: Path, capsys):
    assert crl("a.onnx", "photos", "--out", "answers.csv") == 0
    found = rows(home / "answers.csv")
    assert [row["path"] for row in found] == [f"photos/{number}.png" for number in range(1, 5)]
    model = OnnxClassifier(home / "a.onnx")
    shown = np.stack([model.prepare(decode_image(Path(row["path"]))) for row in found])
    expected = expected_probs(shown)
    for row, probs in zip(found, expected, strict=True):
        told = [float(row[f"p({name})"]) for name in model.class_names]
        np.testing.assert_allclose(told, probs, atol=1e-5)
        assert row["class"] == model.class_names[probs.argmax()]
    out = capsys.readouterr().out
    assert "4 images; 1 model: CE" in out
    assert "running on cpu" in out or "using cpu" in out
    assert "answers: answers.csv" in out


def test_without_a_file_the_answers_stand_on_the_terminal(home: Path, capsys):
    assert crl("a.onnx", "b.onnx", "photos/1.png", "photos/2.png") == 0
    out = capsys.readouterr().out
    assert out.count("photos/1.png") == 2
    assert " CE " in out
    assert " CRL " in out


def test_a_list_on_the_standard_input_keeps_its_order(home: Path, monkeypatch: pytest.MonkeyPatch):
    feed(monkeypatch, b"photos/3.png\n\n# a note\nphotos/1.png\n")
    assert crl("a.onnx", "photos/2.png", "-", "photos/4.png", "--out", "o.csv") == 0
    assert [row["path"][7] for row in rows(home / "o.csv")] == ["2", "3", "1", "4"]


def test_an_empty_list_is_a_mistake(home: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    feed(monkeypatch, b"\n# nothing\n")
    assert crl("a.onnx", "-") == 2
    assert "the list on the standard input names no image" in capsys.readouterr().err


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write files of every bad kind; return what their reasons must tell."""
    good = (folder / "1.png").read_bytes()
    (folder / "zero.jpg").touch()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "page.jpg").write_text("<!DOCTYPE html><html></html>")
    (folder / "drawing.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    cv2.imwrite(str(folder / "float.tiff"), np.zeros((20, 20), np.float32))
    return {
        "zero.jpg": "empty",
        "cut.png": "truncated or damaged",
        "page.jpg": "web page",
        "drawing.png": "SVG",
        "float.tiff": "floating-point",
    }


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_fault_20_a_bad_file_is_a_row_with_its_reason_and_the_exit_code_3(home: Path, suffix: str, capsys):
    reasons = write_bad_files(home / "photos")
    assert crl("a.onnx", "photos", "nowhere.jpg", "--out", f"o{suffix}") == 3
    if suffix == ".parquet":
        found = pq.read_table(home / "o.parquet").to_pylist()
    elif suffix == ".csv":
        found = rows(home / "o.csv")
    else:
        found = [json.loads(line) for line in (home / "o.jsonl").read_text().splitlines()]
    told = {Path(row["path"]).name: row["reason"] for row in found if row["status"] == "bad"}
    assert set(told) == {*reasons, "nowhere.jpg"}
    assert all(reasons[name] in told[name] for name in reasons)
    assert sum(row["status"] == "ok" for row in found) == 4
    error = capsys.readouterr().err
    assert "6 of 10 could not be used" in error
    assert "nowhere.jpg: there is no such file or folder" in error


def test_fault_21_every_kind_of_picture_is_answered_as_it_is_decoded(home: Path):
    from PIL import Image

    base = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    folder = home / "kinds"
    folder.mkdir()
    for mode in ("L", "1", "P", "CMYK", "RGBA", "LA"):
        base.convert(mode).save(folder / f"{mode}.{'tif' if mode == 'CMYK' else 'png'}")
    Image.fromarray((np.arange(2000, dtype=np.uint16) * 32).reshape(40, 50)).save(folder / "I16.png")
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        base.save(folder / f"turn{turn}.png", exif=exif)
    assert crl("a.onnx", "kinds", "--out", "o.csv") == 0
    model = OnnxClassifier(home / "a.onnx")
    found = rows(home / "o.csv")
    assert len(found) == 15
    for row in found:
        probs = model.run(model.prepare(decode_image(Path(row["path"])))[None]).probs[0]
        assert float(row["probability"]) == pytest.approx(float(probs.max()), abs=1e-6)


def test_a_bad_file_is_in_the_summary_that_programs_read(home: Path, capsys):
    (home / "photos" / "zero.jpg").touch()
    assert crl("a.onnx", "photos", "--json") == 3
    result = json.loads(capsys.readouterr().out)
    assert (result["pictures"], result["rows"], result["bad"]) == (4, 5, 1)
    assert result["bad_files"] == [{"path": "photos/zero.jpg", "reason": "the file is empty (0 bytes)"}]
    assert result["models"][0]["title"] == "CE"
    assert result["device"] == "cpu"
    assert result["images_per_second"] > 0


def test_a_video_is_shown_frame_by_frame_with_its_times(home: Path):
    write_video(home / "clip.mp4")
    assert crl("a.onnx", "photos/1.png", "clip.mp4", "--fps", "2", "--out", "o.csv") == 0
    found = rows(home / "o.csv")
    assert [row["time"] for row in found] == ["", "0.0", "0.5", "1.0", "1.5", "2.0", "2.5", "3.0"]


def test_a_broken_video_is_a_row(home: Path):
    (home / "clip.mp4").write_bytes(b"broken")
    assert crl("a.onnx", "clip.mp4", "photos/1.png", "--out", "o.csv") == 3
    found = rows(home / "o.csv")
    assert [row["status"] for row in found] == ["bad", "ok"]
    assert found[0]["reason"].startswith("not a video in a container")


def test_models_with_other_classes_share_jsonl_but_no_table(home: Path, capsys):
    write_tiny(home / "pets.onnx", tiny_facts(title="pets", class_names=("cat", "dog"), crop=None))
    for option in ("--out=o.csv", "--out=o.parquet", "--heatmap=h.png"):
        assert crl("a.onnx", "pets.onnx", "photos", option) == 4
        error = capsys.readouterr().err
        assert "pets.onnx" in error
        assert "cat, dog" in error
    assert list(home.glob("o.*")) == []
    assert crl("a.onnx", "pets.onnx", "photos", "--out", "o.jsonl") == 0
    found = [json.loads(line) for line in (home / "o.jsonl").read_text().splitlines()]
    assert set(found[1]["probs"]) == {"cat", "dog"}
    assert crl("a.onnx", "pets.onnx", "photos") == 0


def test_heat_map_and_looks_are_written_beside_the_answers(home: Path, capsys):
    words = ("--out", "o.csv", "--heatmap", "h.html", "--explain", "looks")
    assert crl("a.onnx", "b.onnx", "photos", *words) == 0
    page = (home / "h.html").read_text()
    assert "CRL" in page
    assert "3.png" in page
    assert len(list((home / "looks").glob("*.png"))) == 8
    out = capsys.readouterr().out
    assert "heat map: 4 rows: h.html" in out
    assert "8 images in looks" in out


class Faces:
    """Stands for the detector: two faces in images 38 px wide, none in others."""

    name = "fake"

    def detect(self, image: np.ndarray) -> list[Face]:
        marks = np.array([(3.0, 4), (9, 4), (6, 7), (4, 10), (8, 10)])
        found = [Face((1.0, 2.0, 20.0, 24.0), 0.95, marks), Face((22.0, 2.0, 10.0, 12.0), 0.7, marks + 19)]
        return found if image.shape[1] == 38 else []


def test_faces_are_rows_and_a_picture_without_one_is_no_error(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agecls.faces.detector.build_detector", lambda path: Faces())
    assert crl("a.onnx", "photos", "--faces", "--out", "o.csv") == 0
    found = rows(home / "o.csv")
    assert [(row["path"][7], row["status"], row["face"]) for row in found] == [
        ("1", "no face", ""),
        ("2", "ok", "1"),
        ("2", "ok", "2"),
        ("3", "no face", ""),
        ("4", "no face", ""),
    ]
    assert found[1]["x"] == "1.0"
    assert "perhaps no face" in found[2]["warnings"]


def test_every_thread_has_a_detector_of_its_own(monkeypatch: pytest.MonkeyPatch):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    built = []
    monkeypatch.setattr("agecls.faces.detector.build_detector", lambda path: built.append(path) or Faces())
    detectors, barrier = ThreadDetectors("file"), Barrier(2, timeout=5)
    image = np.zeros((40, 38, 3), np.uint8)

    def look(number: int) -> int:
        barrier.wait()
        return len(detectors.detect(image)) + len(detectors.detect(image))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, range(2))) == [4, 4]
    assert built == ["file"] * 3


def test_faces_without_a_detector_are_refused_before_any_work(home: Path, capsys):
    if hasattr(cv2, "CascadeClassifier"):
        pytest.skip("this OpenCV has a cascade to fall back on")
    assert crl("broken.onnx", "photos", "--faces") == 2
    assert "no face detector was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["photos"], "no model is named: the first words must end in .onnx, for example: crl predict"),
        (["a.onnx"], "no image is named: give files, folders, patterns, videos or -, for example: crl"),
        (["a.onnx", "x.jpg", "B.ONNX"], "B.ONNX stands behind an image; models come first"),
    ],
)
def test_words_that_name_no_model_or_no_picture_are_refused_with_an_example(words: list[str], message: str):
    with pytest.raises(UsageError) as error:
        split_words(words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"out": "o.txt"},
        {"heatmap": "h.jpg"},
        {"batch_size": 0},
        {"fps": 0.0},
        {"out": "same.csv", "heatmap": "same.csv"},
        {"device": "tpu"},
        {"threads": -1},
    ],
)
def test_options_that_cannot_be_right_are_refused_before_a_picture_is_read(home: Path, options, monkeypatch):
    stream = "apps.predict.loader"
    monkeypatch.setattr(f"{stream}.decode_guarded", lambda *a, **k: pytest.fail("an image was read"))
    with pytest.raises(UsageError):
        predict_paths(["a.onnx", "photos"], PredictConfig(**options))
    assert {file.name for file in home.iterdir()} <= {"a.onnx", "b.onnx", "photos", "cache"}


@pytest.mark.usefixtures("as_in_a_terminal")
def test_an_interruption_keeps_what_was_answered(home: Path, monkeypatch: pytest.MonkeyPatch):
    feed(monkeypatch, b"photos/1.png\n" * 500)
    run, count = OnnxClassifier.run, [0]

    def interrupted(self: OnnxClassifier, batch: np.ndarray, **more: object):
        count[0] += 1
        if count[0] == 4:  # the first run is the model's own trial
            os.kill(os.getpid(), signal.SIGINT)
        return run(self, batch, **more)

    monkeypatch.setattr(OnnxClassifier, "run", interrupted)
    with pytest.raises(InterruptedRunError) as error:
        predict_paths(["a.onnx", "-"], PredictConfig(out="o.csv", batch_size=10, threads=1))
    assert error.value.exit_code == 130
    kept = rows(home / "o.csv")
    assert 1 <= len(kept) < 100
    assert (
        str(error.value)
        == f"stopped by SIGINT in image {len(kept)} of 500; its {len(kept)} rows are in o.csv"
    )
    assert error.value.result["rows"] == len(kept)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_model_that_fails_half_way_keeps_what_was_answered(home: Path, monkeypatch: pytest.MonkeyPatch):
    run, count = OnnxClassifier.run, [0]

    def failing(self: OnnxClassifier, batch: np.ndarray, **more: object):
        count[0] += 1
        if count[0] == 3:
            raise ModelFileError("its answers are not finite")
        return run(self, batch, **more)

    monkeypatch.setattr(OnnxClassifier, "run", failing)
    with pytest.raises(ModelFileError, match="not finite"):
        predict_paths(["a.onnx", "photos"], PredictConfig(out="o.csv", batch_size=2, threads=1))
    assert len(rows(home / "o.csv")) == 2


def test_notices_are_told_once_each(home: Path, capsys):
    from PIL import Image

    frames = [Image.fromarray(np.full((20, 20, 3), value, np.uint8)) for value in (10, 200)]
    frames[0].save(home / "photos" / "a.gif", save_all=True, append_images=frames[1:])
    assert crl("a.onnx", "b.onnx", "photos") == 0
    assert capsys.readouterr().out.count("holds several frames; the first one is used") == 1


def test_a_model_that_expects_faces_tells_that_it_was_shown_whole_pictures(home: Path, capsys):
    crl("a.onnx", "photos")
    assert "the images are taken for cropped faces; --faces finds" in capsys.readouterr().out


def test_twin_packages_are_refused_at_first_use(home: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("apps.runtime.installed.installed_version", lambda name: "1.0")
    assert crl("a.onnx", "photos") == 5
    assert "pip uninstall -y" in capsys.readouterr().err


def test_all_pictures_bad_is_told_without_a_heat_map(home: Path, capsys):
    with pytest.raises(DataError, match=r"1 of 1 could not be used:[\s\S]*\nNothing was classified; fix"):
        predict_paths(["a.onnx", "nowhere.jpg"], PredictConfig(heatmap="h.png", explain="looks"))
    assert "heat map: none" in capsys.readouterr().out
    assert not (home / "h.png").exists()


def test_it_works_without_torch(home: Path):
    import subprocess
    import sys

    code = (
        "import sys; from apps.predict.run import predict_paths; from apps.config import PredictConfig\n"
        "predict_paths(['a.onnx', 'photos'], PredictConfig(heatmap='h.html', explain='looks', out='o.csv'))\n"
        "print(sorted({'torch', 'timm', 'albumentations', 'gradio'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=home, env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"
    assert run.stderr == ""


def test_a_box_stands_in_for_a_detector(home: Path):
    assert crl("a.onnx", "photos/1.png", "--box", "5,6,20,22", "--out", "boxed.csv") == 0
    [row] = rows(home / "boxed.csv")
    assert [float(row[name]) for name in ("x", "y", "width", "height")] == [5, 6, 20, 22]
    model = OnnxClassifier(home / "a.onnx")
    face = Face((5, 6, 20, 22), 1.0, None)
    rule = FaceCrop.from_dict(model.facts.crop)
    cut = crop_face(decode_image(Path("photos/1.png")), face, rule, model.facts.preprocess.resize_size)
    [probs] = expected_probs(model.prepare(cut)[None])
    assert row["class"] == model.class_names[probs.argmax()]
    assert float(row["probability"]) == pytest.approx(probs.max(), abs=1e-5)


def test_a_box_outside_the_picture_holds_no_face_and_a_wrong_one_is_refused(home: Path, capsys):
    assert crl("a.onnx", "photos/1.png", "--box", "500,6,20,22", "--out", "boxed.csv") == 0
    assert rows(home / "boxed.csv")[0]["status"] == "no face"
    for box in ("5,6,20", "5,6,20,0", "5,6,nan,20", "a,b,c,d"):
        assert crl("a.onnx", "photos/1.png", "--box", box) == 2
    assert crl("a.onnx", "photos/1.png", "--box", "5,6,20,22", "--faces") == 2
    assert "leave out --faces" in capsys.readouterr().err


def test_a_model_measured_with_ten_crops_is_shown_ten(home: Path, capsys):
    room = replace(SPEC, resize_size=44)
    write_tiny(home / "ten.onnx", tiny_facts(title="Ten", preprocess=room, test_crops="ten"))
    model = OnnxClassifier(home / "ten.onnx")
    for words, crops in (((), "ten"), (("--test_crops", "center"), "center")):
        assert crl("ten.onnx", "photos/1.png", "--out", "o.csv", "--json", *words) == 0
        [expected] = model.predict([Path("photos/1.png")], test_crops=crops)
        [row] = rows(home / "o.csv")
        assert float(row["probability"]) == pytest.approx(expected.probability, abs=1e-6)
        told = capsys.readouterr()
        assert json.loads(told.out)["models"][0]["test_crops"] == crops
        assert ("(test crops: ten)" in told.err) == (crops == "ten")
    reset()
    assert crl("a.onnx", "ten.onnx", "photos/1.png") == 0
    assert "(test crops: center for CE, ten for Ten)" in capsys.readouterr().out


def test_one_is_counted_as_one(home: Path, capsys):
    assert crl("a.onnx", "photos/1.png", "--heatmap", "h.csv", "--explain", "looks") == 0
    out = capsys.readouterr().out
    assert "heat map: 1 row: h.csv" in out
    assert ": 1 image in looks" in out


def test_names_cannot_steer_the_terminal(home: Path, capsys):
    folder = home / "a\x1b[2Jb"
    folder.mkdir()
    (home / "photos" / "1.png").rename(folder / "c\x1b[2J.png")
    made = [f"{folder.name}/{name}" for name in ("o\n.csv", "h\n.csv", "looks\n")]
    words = ("--out", made[0], "--heatmap", made[1], "--explain", made[2])
    assert crl("a.onnx", folder.name, *words) == 0
    assert crl("a.onnx", folder.name) == 0
    assert crl("a.onnx", folder.name, "--out", f"{made[0]}.txt") == 2
    assert crl(f"{folder.name}/none.onnx", "photos") == 4
    told = capsys.readouterr()
    assert "\x1b" not in told.out + told.err
    for line in ("answers: a\\x1b[2Jb/o\\n.csv", "1 row: a\\x1b[2Jb/h\\n.csv", "in a\\x1b[2Jb/looks\\n"):
        assert line in told.out


def test_a_file_whose_name_begins_with_a_dash_is_told_how_to_name_it(home: Path, capsys):
    (home / "photos" / "1.png").rename(home / "-x.png")
    assert crl("a.onnx", "-x.png", "photos/2.png") == 2
    assert "its name begins with a dash: write ./-x.png" in capsys.readouterr().err
    assert crl("a.onnx", "./-x.png", "--out", "o.csv") == 0


def test_a_model_of_drawings_says_that_it_is_not_for_people(home: Path, capsys):
    write_tiny(home / "drawn.onnx", tiny_facts(title="D", card={"data": {"kind": "drawn"}}))
    assert crl("drawn.onnx", "photos/1.png") == 0
    assert "not for real faces: D learned from synthetic faces alone" in capsys.readouterr().out
    assert crl("a.onnx", "photos/1.png") == 0
    assert "not for real faces" not in capsys.readouterr().out


def categories(home: Path, order: int = 1) -> None:
    """Write two models of the same three birds, the second with its classes in another order."""
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
    given = {"task": "category", "ordered": False, "crop": None}
    write_tiny(home / "one.onnx", tiny_facts(title="one", class_names=names, **given))
    write_tiny(home / "two.onnx", tiny_facts(title="two", class_names=names[::order], **given), seed=1)


def test_fine_grained_models_tell_their_best_classes(home: Path, capsys):
    categories(home)
    assert crl("one.onnx", "two.onnx", "photos", "--heatmap", "map.png") == 0
    out = capsys.readouterr().out
    assert "Black footed Albatross" in out
    assert "001." not in out
    assert "rank" in out
    assert cv2.imread("map.png") is not None


def test_models_with_other_orders_share_a_table_by_name(home: Path, capsys):
    categories(home, order=-1)
    assert crl("one.onnx", "two.onnx", "photos", "--out", "answers.csv") == 0
    assert "two: classes put into the order of one, by their names" in capsys.readouterr().out
    own = OnnxClassifier(home / "two.onnx")
    told = [row for row in rows(home / "answers.csv") if row["model"] == "two"]
    for row, said in zip(told, own.predict([Path(row["path"]) for row in told]), strict=True):
        assert row["class"] == said.class_name
        assert float(row["probability 3"]) == pytest.approx(said.probs.min(), abs=1e-6)
        for name, value in zip(own.class_names, said.probs, strict=True):
            assert float(row[f"p({name})"]) == pytest.approx(value, abs=1e-6)


def test_a_model_of_cut_pictures_and_one_of_drawings_say_so(home: Path, capsys):
    given = {"task": "category", "ordered": False, "crop": None}
    write_tiny(home / "box.onnx", tiny_facts(title="boxed", data={"picture_crop": "box"}, **given))
    write_tiny(home / "drawn.onnx", tiny_facts(title="sketch", card={"data": {"kind": "drawn"}}, **given))
    assert crl("box.onnx", "drawn.onnx", "photos") == 0
    out = capsys.readouterr().out
    assert "crop the images to their objects: boxed learned from images cut to them" in out
    assert "not for photographs: sketch learned from synthetic images alone" in out

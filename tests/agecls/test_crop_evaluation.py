from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from agecls import crop_evaluation as recropping
from agecls.config import AgeDataConfig, EvaluateAgeConfig
from agecls.crop_evaluation import crop_for_run, crop_report, face_of, find_faces, measured_crop
from agecls.evaluation import evaluate_age_run
from agecls.faces.alignment import Face, crop_face
from agecls.faces.crop import FaceCrop
from agecls.faces.detector import FaceDetector
from agecls.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec, preprocess
from tests.agecls.age_predictions import age_predictions
from tests.agecls.tiny_ages import as_table, crl, one_object

TABLE = {"group_column": "group", "user_column": "user", "gender_column": "gender"}
SIDE = 32


class Boxes(FaceDetector):
    """Finds one face in every image that `sees` accepts; `box` is in shares of the image's side."""

    name = "a detector of the tests"

    def __init__(self, box=(0.0, 0.0, 1.0, 1.0), sees=lambda image: True) -> None:
        super().__init__()
        self.box, self.sees = box, sees

    def detect(self, image):
        place = tuple(float(part * image.shape[0]) for part in self.box)
        return [Face(place, 0.9)] if self.sees(image) else []


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> Boxes:
    """The detector of every evaluation here: to it the whole image is a face, unless told otherwise."""
    detector = Boxes()
    monkeypatch.setattr(recropping, "build_detector", lambda path: detector)
    return detector


def write_portraits(folder: Path, run: dict[str, object], widths=(80,) * 12) -> list[np.ndarray]:
    """Write a run on a table of noisy images, 100 px high; returns their pixels."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (100, width, 3)).astype(np.uint8) for width in widths]
    names = [f"{number}.png" for number in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        cv2.imwrite(str(folder / name), picture[:, :, ::-1])
    arrays = {"path": np.array(names), "label": np.zeros(len(names), int), "subject": np.array(names)}
    Manifest(folder, ("a", "b"), {**arrays, "fold": np.zeros(len(names), int)}).save(
        folder / "manifest.parquet"
    )
    (folder / "run.json").write_text(json.dumps({"data_root": str(folder), **run}))
    return pictures


def asked(tmp_path: Path, margin: float | None = 0.0, **data: object) -> EvaluateAgeConfig:
    return EvaluateAgeConfig(
        data=AgeDataConfig(**data),
        device="cpu",
        cache=str(tmp_path / "cache"),
        out=str(tmp_path / "out"),
        crop="detector",
        face_crop="plain",
        face_margin=margin,
    )


def test_crops_that_are_the_pictures_change_nothing(pair, boxes, tmp_path):
    told = evaluate_age_run(TASK, pair[0], asked(tmp_path))
    own = Result.load(pair[0], TASK.form).predictions
    assert (told["n"], told["found"], told["not_found"]) == (len(own), len(own), 0)
    assert told["equal_predictions"] == 100
    for score, hits in (("exact", own.correct), ("one_off", own.one_off)):
        found = told["all"][score]
        assert found["own"] == found["detector"] == pytest.approx(100 * hits.mean())
        assert (found["difference"], found["p"], found["interval_method"]) == (0, 1, "Wilson")
        assert -found["interval"][0] == found["interval"][1] == pytest.approx(9.84, abs=0.01)
    names = Result.load(pair[0], TASK.form).class_names
    file = tmp_path / "out" / "predictions.parquet"
    cut = Predictions.read(file, names, TASK.form.columns, may_be_empty=TASK.form.may_be_empty)
    assert cut.probs == pytest.approx(own.in_order().probs, abs=1e-6)
    assert (cut.fold == own.in_order().fold).all()
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["all"] == told["all"]


def test_other_crops_give_other_answers(pair, boxes, tmp_path):
    boxes.box = (0.25, 0.25, 0.5, 0.5)
    told = evaluate_age_run(TASK, pair[0], asked(tmp_path))
    assert told["crop"] == FaceCrop.of("plain", 0).to_dict()
    assert told["detector"] == boxes.name
    names = Result.load(pair[0], TASK.form).class_names
    cut = Predictions.read(tmp_path / "out" / "predictions.parquet", names)
    own = Result.load(pair[0], TASK.form).predictions.in_order()
    assert np.abs(cut.probs - own.probs).max() > 1e-3
    assert told["equal_predictions"] == pytest.approx(100 * (cut.preds == own.preds).mean())
    widened = evaluate_age_run(TASK, pair[0], asked(tmp_path, margin=0.5))
    assert widened["equal_predictions"] == 100, "half the box on every side of half the image is all of it"


def test_where_no_face_is_found_the_picture_is_shown_whole_and_counted(pair, boxes, tmp_path, capsys):
    boxes.sees = lambda image: False
    told = evaluate_age_run(TASK, pair[0], asked(tmp_path))
    assert (told["found"], told["not_found"], told["found_only"]) == (0, told["n"], None)
    assert told["all"]["exact"]["difference"] == 0
    shown = capsys.readouterr().out
    assert f"faces found in 0 of {told['n']}" in shown
    boxes.box, boxes.sees = (0.25, 0.25, 0.5, 0.5), lambda image: image[0, 0, 0] % 2 == 0
    told = evaluate_age_run(TASK, pair[0], asked(tmp_path))
    assert 0 < told["found"] < told["n"]
    assert told["found_only"]["n"] == told["found"]
    assert sum(hit for hit, _ in told["found_per_group"].values()) == told["found"]
    assert sum(of for _, of in told["found_per_group"].values()) == told["n"]


def test_a_single_run_is_shown_its_own_test_fold(pair, boxes, tmp_path):
    told = evaluate_age_run(TASK, pair[0] / "fold2", replace(asked(tmp_path), workers=2))
    own = Result.load(pair[0] / "fold2", TASK.form).predictions
    assert told["n"] == len(own)
    assert told["all"]["exact"]["own"] == pytest.approx(100 * own.correct.mean())


def test_other_data_is_shown_to_every_fold_and_training_pictures_are_refused(
    pair, boxes, faces, other_faces, tmp_path
):
    table = as_table(other_faces, tmp_path / "others.csv")
    others = {"table": str(table), "root": str(other_faces), **TABLE}
    told = evaluate_age_run(TASK, pair[0], asked(tmp_path, **others))
    plain = evaluate_age_run(
        TASK,
        pair[0],
        replace(asked(tmp_path, **others), crop="own", face_crop="auto", face_margin=None),
    )
    assert told["data"] == "other data"
    assert told["all"]["exact"]["own"] == pytest.approx(plain["exact"])
    assert told["equal_predictions"] == 100
    with pytest.raises(DataError, match="belong to the data set"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, root=str(faces)))


def test_the_crop_is_the_one_the_run_was_trained_on(pair, tmp_path):
    assert crop_for_run(pair[0], Boxes()) == FaceCrop.of("aligned"), "the drawn faces lie in aligned/"
    assert crop_for_run(pair[0], Boxes(), "faces", 0.1) == FaceCrop("faces", 0.1, 0.05)
    run = json.loads((pair[0] / "run.json").read_text())
    run["counts"]["layout"] = None
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "manifest.parquet").write_bytes((pair[0] / "manifest.parquet").read_bytes())
    boxes = Boxes((0.25, 0.125, 0.5, 0.5))
    # The image's side is two of the box's: half a box on every side; its middle lies an eighth of the
    # image, a quarter of the box, below the box's.
    assert crop_for_run(tmp_path, boxes) == FaceCrop("plain", 0.5, 0.25)
    assert crop_for_run(tmp_path, boxes, margin=0.2) == FaceCrop("plain", 0.2)
    assert crop_for_run(tmp_path, boxes, "plain") == FaceCrop.of("plain")
    assert crop_for_run(tmp_path, Boxes(sees=lambda image: False)) == FaceCrop.of("plain")


def test_a_measured_margin_is_kept_inside_its_bounds(pair):
    manifest = Result.load(pair[0], TASK.form).manifest
    for squeezed in (True, False):
        large = measured_crop(manifest, Boxes((-0.5, 0, 2, 2)), squeezed=squeezed)
        assert large == FaceCrop("plain", 0, 0.0 - 0.25)
        small = measured_crop(manifest, Boxes((0.9, 0, 0.01, 0.01)), squeezed=squeezed)
        assert small == FaceCrop("plain", 3, 1)


@pytest.mark.parametrize(
    ("resize", "wanted"), [("warp", FaceCrop("plain", 0.5, 0.1, 0.8)), ("short", FaceCrop("plain", 0.3, 0.1))]
)
def test_the_shape_of_pictures_that_training_squeezed_is_measured_and_the_crop_is_what_the_model_saw(
    tmp_path, resize, wanted
):
    pictures = write_portraits(tmp_path, {"preprocess": {"resize": resize}})
    # The box is 40 x 50 px at (20, 20), its middle (40, 45). Squeezed, all 100 px of height count: half a box
    # above and below; else the square of 80 px in the middle: 15 px, 0.3 boxes. The middle is 5 px lower.
    boxes = Boxes((0.2, 0.2, 0.4, 0.5))
    assert crop_for_run(tmp_path, boxes) == wanted
    spec = PreprocessSpec(40, resize, 40, "bicubic", (0.5,) * 3, (0.5,) * 3)
    for picture in pictures:
        crop = crop_face(picture, boxes.detect(picture)[0], wanted, spec.resize_size)
        assert (crop == preprocess(picture, spec)).all()


def test_of_pictures_of_many_shapes_the_median_counts(tmp_path):
    write_portraits(tmp_path, {"preprocess": {"resize": "warp"}}, widths=[60] * 4 + [90] * 3 + [150] * 5)
    # By height: margin and drop are as above. Sorted, the widths' two middle ones are 90 and 90.
    assert crop_for_run(tmp_path, Boxes((0.2, 0.2, 0.4, 0.5))) == FaceCrop("plain", 0.5, 0.1, 0.9)
    write_portraits(tmp_path, {"preprocess": {"resize": "warp"}}, widths=[10] * 12)
    assert crop_for_run(tmp_path, Boxes((0, 0.2, 0.4, 0.5))).aspect == 0.2, "narrower ones are not offered"


def test_the_face_of_a_picture_is_the_one_in_its_middle():
    beside, middle = Face((0, 0, 60, 60), 0.9), Face((70, 70, 50, 50), 0.9)
    assert face_of([beside, middle], 160, 160) is middle
    assert face_of([beside, middle], 400, 400) is beside
    assert face_of([], 400, 400) is None


def test_what_recropping_costs_by_hand():
    def predictions(preds: list[int]) -> Predictions:
        probs = np.eye(3)[preds] * 0.7 + 0.1
        columns = {
            "path": np.array(list("abcd")),
            "subject": ["1", "1", "2", "3"],
            "user": ["1", "1", "2", "3"],
        }
        columns |= {"gender": [""] * 4, "age": [np.nan] * 4, "fold": [0] * 4, "target": [0, 1, 2, 2]}
        columns = {name: np.array(values) for name, values in columns.items()}
        return age_predictions(("0-2", "4-6", "8+"), **columns, probs=probs)

    told = crop_report(
        predictions([0, 1, 2, 0]), predictions([0, 2, 0, 0]), np.array([True, True, True, False])
    )
    assert (told["n"], told["subjects"], told["found"], told["not_found"]) == (4, 3, 3, 1)
    assert told["equal_predictions"] == 50
    assert told["found_per_group"] == {"0-2": [1, 1], "4-6": [1, 1], "8+": [1, 2]}
    exact, one_off = told["all"]["exact"], told["all"]["one_off"]
    assert (exact["own"], exact["detector"], exact["difference"]) == (75, 25, -50)
    assert (one_off["own"], one_off["detector"], one_off["difference"]) == (75, 50, -25)
    assert exact["interval"][0] < -50 < exact["interval"][1] <= 0
    only = told["found_only"]
    assert (only["n"], only["exact"]["own"]) == (3, 100)
    assert only["exact"]["detector"] == pytest.approx(100 / 3)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "good.png").write_bytes(b"")
    columns = {"path": ["good.png"], "label": [0], "class_name": ["a"], "subject": ["s"], "fold": [0]}
    arrays = {name: np.array(values) for name, values in columns.items()}
    manifest = Manifest(tmp_path, ("a", "b"), arrays)
    with pytest.raises(DataError, match=r"good\.png"):
        find_faces(manifest, np.array([0]), Boxes())


def test_without_a_detector_it_is_said_where_to_get_one(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(recropping, "build_detector", lambda path: None)
    with pytest.raises(UsageError, match="OpenCV Zoo"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path))


@pytest.mark.parametrize("option", [{"detector": "x.onnx"}, {"face_crop": "plain"}, {"face_margin": 0.2}])
def test_options_that_would_change_nothing_are_refused(pair, tmp_path, option):
    config = EvaluateAgeConfig(device="cpu", cache="none", **option)
    with pytest.raises(UsageError, match="--crop detector"):
        evaluate_age_run(TASK, pair[0], config)


def test_the_command_line_gives_one_object(pair, boxes, tmp_path, capsys):
    words = ["age", "evaluate", pair[0], "--crop", "detector", "--face_crop", "plain", "--face_margin", "0"]
    code, out, err = crl(capsys, *words, "--device", "cpu", "--cache", tmp_path / "cache", "--json")
    assert code == 0, err
    assert one_object(out)["equal_predictions"] == 100
    code, _, err = crl(capsys, *words[:5], "--face_margin", "9")
    assert code == 2
    assert "face margin must lie between" in err

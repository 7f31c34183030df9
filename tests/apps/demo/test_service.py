from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from apps.demo import looks as demo_looks
from apps.demo.endpoint import answer_call
from apps.demo.results import results_html
from apps.demo.service import MAX_FACES, DemoService
from apps.heatmap.heatmap import to_csv
from apps.runtime.occlusion import explain_onnx
from apps.runtime.session import OnnxClassifier
from finetune.errors import ModelFileError, ResourceError
from finetune.figures.evidence import overlay
from tests.apps.runtime.test_calibration import ENTRY, SETS
from tests.apps.tiny_onnx import GROUPS, expected_probs, tiny_facts, write_tiny


@dataclass
class FakeFace:
    """A face as the detector tells it, without landmarks."""

    box: tuple[float, float, float, float]
    score: float = 0.9
    landmarks: np.ndarray | None = None
    tilt: float = 0.0
    told: list[str] = field(default_factory=list)

    def warnings(self) -> list[str]:
        return self.told


class FakeDetector:
    """Finds the faces that it was given, whatever the image."""

    name = "fake"

    def __init__(self, faces: list[FakeFace]) -> None:
        self.faces = faces

    def detect(self, image: np.ndarray) -> list[FakeFace]:
        return self.faces


def paint(file: Path, colour: tuple[int, int, int], size: int = 60) -> Path:
    """Write an image of one RGB colour."""
    cv2.imwrite(str(file), np.full((size, size, 3), colour[::-1], np.uint8))
    return file


@pytest.fixture
def models(tmp_path: Path) -> list[OnnxClassifier]:
    files = [
        write_tiny(tmp_path / f"{n}.onnx", tiny_facts(title=t), seed=n) for n, t in enumerate(("CE", "CRL"))
    ]
    return [OnnxClassifier(file, device="cpu", threads=1) for file in files]


def service(
    models: list[OnnxClassifier], faces: list[FakeFace] | None = None, **options: object
) -> DemoService:
    detector = None if faces is None else FakeDetector(faces)
    return DemoService(models, detector, **{"owns": lambda path: True, **options})  # type: ignore[arg-type]


def test_a_crop_gets_every_models_probabilities(models, tmp_path):
    file = paint(tmp_path / "red.png", (200, 30, 40))
    answer = service(models).answer([file], cropped=True)
    assert answer.titles == ("CE", "CRL")
    assert answer.errors == ()
    [row] = answer.rows
    assert (row.name, row.face, row.box, row.true) == ("red.png", None, None, None)
    for seed, title in enumerate(answer.titles):
        guess = row.guesses[title]
        assert guess.crop.shape == (32, 32, 3)
        np.testing.assert_allclose(guess.probs, expected_probs(guess.crop[None], seed=seed)[0], atol=1e-5)
        assert guess.class_index == guess.probs.argmax()
        assert guess.look is None


def test_only_the_chosen_models_answer_in_the_services_order(models, tmp_path):
    file = paint(tmp_path / "a.png", (1, 2, 3))
    assert service(models).answer([file], ["CRL"], cropped=True).titles == ("CRL",)
    assert service(models).answer([file], ["CRL", "CE"], cropped=True).titles == ("CE", "CRL")


def test_the_status_counts_what_was_done(models, tmp_path):
    files = [paint(tmp_path / f"{n}.png", (n * 9, 80, 10)) for n in range(3)]
    answer = service(models).answer(files, cropped=True)
    assert answer.status.startswith("3 images, 2 models, 0.")
    assert answer.status.endswith(" s on CPU")
    assert (
        service(models, [FakeFace((5, 5, 30, 30))])
        .answer(files[:1])
        .status.startswith("1 image, 1 face, 2 models, ")
    )


def test_every_face_is_a_row_the_largest_first_with_its_box_and_warnings(models, tmp_path):
    faces = [FakeFace((0, 0, 30, 30)), FakeFace((30, 30, 20, 20), told=["small face"])]
    answer = service(models, faces).answer([paint(tmp_path / "two.png", (9, 9, 9))])
    assert [(row.face, row.box) for row in answer.rows] == [(1, (0, 0, 30, 30)), (2, (30, 30, 20, 20))]
    assert [row.warnings for row in answer.rows] == [(), ("small face",)]
    assert [answer.label(row) for row in answer.rows] == ["two.png, face 1", "two.png, face 2"]


def test_one_face_needs_no_number(models, tmp_path):
    answer = service(models, [FakeFace((0, 0, 30, 30))]).answer([paint(tmp_path / "one.png", (9, 9, 9))])
    assert answer.label(answer.rows[0]) == "one.png"


def test_a_face_is_cut_out_as_the_model_says(models, tmp_path):
    image = np.full((120, 120, 3), (0, 0, 255), np.uint8)
    image[40:80, 40:80] = (0, 255, 0)
    cv2.imwrite(str(tmp_path / "green.png"), image)
    plain = service(models).answer([tmp_path / "green.png"], cropped=True).rows[0].guesses["CE"].crop
    cut = service(models, [FakeFace((40, 40, 40, 40))]).answer([tmp_path / "green.png"]).rows[0]
    green = [(crop[..., 1] > 128).mean() for crop in (plain, cut.guesses["CE"].crop)]
    centre = (36 / 32) ** 2  # the network sees the middle 32 of 36 px
    assert green[0] == pytest.approx(centre / 3**2, abs=0.03)
    assert green[1] == pytest.approx(centre / 1.8**2, abs=0.03)  # 40 % of the box on every side


def test_a_crowd_is_cut_short_and_said(models, tmp_path):
    faces = [FakeFace((0, 0, 20, 20)) for _ in range(MAX_FACES + 3)]
    answer = service(models, faces).answer([paint(tmp_path / "crowd.png", (9, 9, 9))])
    assert len(answer.rows) == MAX_FACES
    crowd = "15 faces were found, the 12 largest are shown"
    assert [row.warnings for row in answer.rows] == [(crowd,), *[()] * (MAX_FACES - 1)]


def test_no_face_is_a_message_and_the_other_pictures_are_answered(models, tmp_path):
    class OneOfTwo(FakeDetector):
        def detect(self, image: np.ndarray) -> list[FakeFace]:
            return [FakeFace((0, 0, 30, 30))] if image[0, 0, 0] > 100 else []

    made = DemoService(models, OneOfTwo([]), owns=lambda path: True)  # type: ignore[arg-type]
    dark, light = paint(tmp_path / "dark.png", (9, 9, 9)), paint(tmp_path / "light.png", (200, 9, 9))
    answer = made.answer([dark, light])
    assert [row.name for row in answer.rows] == ["light.png"]
    assert answer.errors == (
        (
            "dark.png",
            "no face was found: try a clearer one, or crop the face yourself and say 'already cropped' "
            "(programs: already_cropped true)",
        ),
    )


def test_without_a_detector_a_photograph_is_not_taken_for_a_crop(models, tmp_path):
    answer = service(models).answer([paint(tmp_path / "a.png", (9, 9, 9))], cropped=False)
    assert answer.rows == ()
    assert "no face detector" in answer.errors[0][1]
    assert "already_cropped true" in answer.errors[0][1]


def test_a_model_without_a_face_rule_sees_whole_pictures(tmp_path):
    file = write_tiny(tmp_path / "bird.onnx", tiny_facts(task="category", crop=None))
    made = service([OnnxClassifier(file, device="cpu", threads=1)], [FakeFace((0, 0, 9, 9))])
    assert not made.wants_faces
    assert made.answer([paint(tmp_path / "a.png", (9, 9, 9))]).rows[0].face is None


def test_what_is_wrong_with_a_picture_is_said_in_words(models, tmp_path):
    page, large = tmp_path / "page.jpg", paint(tmp_path / "large.png", (1, 2, 3))
    page.write_text("<html>")
    large.write_bytes(large.read_bytes() + b"0" * 30_000)
    gone, good = tmp_path / "gone.png", paint(tmp_path / "good.png", (1, 2, 3))
    answer = service(models, max_mb=0.03).answer([page, large, gone, good], cropped=True)
    reasons = dict(answer.errors)
    assert "web page" in reasons["page.jpg"]
    assert reasons["large.png"] == "0.0 MB, at most 0.03 MB are read: make it smaller"
    assert "removed meanwhile" in reasons["gone.png"]
    assert [row.name for row in answer.rows] == ["good.png"]
    assert str(tmp_path) not in str(answer.errors)


def test_a_file_that_is_not_the_demos_own_is_not_opened(models, tmp_path):
    file = paint(tmp_path / "secret.png", (1, 2, 3))
    answer = service(models, owns=lambda path: False).answer([file], cropped=True)
    assert answer.rows == ()
    assert "no image uploaded here" in answer.errors[0][1]


@pytest.mark.parametrize(
    ("paths", "titles", "truth", "words"),
    [
        ([], None, None, "no image yet"),
        (["a"] * 17, None, None, "17 images are too many at once: choose 16 or fewer"),
        (["a"], [], None, "no model is chosen"),
        (["a"], ["nope"], None, "no model is called nope; there are: CE, CRL"),
        (["a"], None, "old", "'old' is none of the classes: 0-2, 4-6"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_words(models, paths, titles, truth, words):
    answer = service(models).answer(paths, titles, truth=truth, cropped=True)
    assert answer.rows == ()
    assert words in answer.errors[0][1]
    assert answer.status == "nothing was classified"


def test_the_true_class_given_goes_before_the_examples_own(models, tmp_path):
    example, other = paint(tmp_path / "example.png", (1, 2, 3)), paint(tmp_path / "other.png", (3, 2, 1))
    made = service(models, known_class=lambda path: "60+" if path == example else None)
    rows = made.answer([example, other], cropped=True, truth="0-2").rows
    assert [GROUPS[row.true] for row in rows] == ["0-2", "0-2"]
    rows = made.answer([example, other], cropped=True).rows
    assert [row.true for row in rows] == [GROUPS.index("60+"), None]


def test_explaining_draws_over_the_crop_for_every_model(models, tmp_path):
    image = np.zeros((64, 64, 3), np.uint8)
    image[:32] = 255
    cv2.imwrite(str(tmp_path / "half.png"), image)
    [row] = service(models).answer([tmp_path / "half.png"], cropped=True, explain=True).rows
    for guess in row.guesses.values():
        assert guess.look.shape == guess.crop.shape
        assert guess.look.dtype == np.uint8
        assert "class activation map" in guess.look_method


def test_models_without_maps_are_explained_too(tmp_path):
    file = write_tiny(tmp_path / "bare.onnx", maps=False)
    made = service([OnnxClassifier(file, device="cpu", threads=1)])
    assert not made.has_maps
    [row] = made.answer([paint(tmp_path / "a.png", (9, 90, 9))], cropped=True, explain=True).rows
    assert "occlusion" in row.guesses["tiny"].look_method


def test_models_with_different_classes_are_refused(tmp_path):
    files = [
        write_tiny(tmp_path / "a.onnx"),
        write_tiny(tmp_path / "b.onnx", tiny_facts(class_names=("x", "y"))),
    ]
    with pytest.raises(ModelFileError, match="different classes"):
        service([OnnxClassifier(file, device="cpu", threads=1) for file in files])


def test_models_of_one_title_are_told_apart(tmp_path):
    files = [write_tiny(tmp_path / f"{n}.onnx", seed=n) for n in range(2)]
    assert len(set(service([OnnxClassifier(f, device="cpu", threads=1) for f in files]).titles)) == 2


def test_a_model_that_fails_is_said_without_the_servers_paths(models, tmp_path, monkeypatch):
    def fail(batch: np.ndarray, maps: bool = False) -> None:
        raise ResourceError(f"{models[0].path}: not enough memory")

    monkeypatch.setattr(models[0], "run", fail)
    answer = service(models).answer([paint(tmp_path / "a.png", (1, 2, 3))], cropped=True)
    assert answer.errors == (("", "CE: not enough memory"),)
    assert answer.rows == ()


def test_models_without_maps_are_explained_for_a_few_crops_only_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_looks, "MOST_COVERED", 4)
    files = [
        write_tiny(tmp_path / f"{n}.onnx", tiny_facts(title=str(n)), seed=n, maps=n == 2) for n in range(3)
    ]
    made = service([OnnxClassifier(file, device="cpu", threads=1) for file in files])
    pictures = [paint(tmp_path / f"{n}.png", (9 * n, 90, 9)) for n in range(5)]
    answer = made.answer(pictures, cropped=True, explain=True)
    looked = [sum(row.guesses[title].look is not None for row in answer.rows) for title in "012"]
    assert looked == [2, 2, 5]  # four crops are shared by the two models without maps
    assert answer.errors == (("", "where a model without maps looked is shown for the first 2 of 5 crops"),)
    assert made.answer(pictures[:2], cropped=True, explain=True).errors == ()


def test_maps_come_with_the_answers_of_a_whole_batch(models, tmp_path, monkeypatch):
    pictures = [paint(tmp_path / f"{n}.png", (9 * n, 90, 9)) for n in range(5)]
    asked = []
    run = models[0].run
    monkeypatch.setattr(
        models[0], "run", lambda batch, maps=False: asked.append(len(batch)) or run(batch, maps=maps)
    )
    answer = service(models).answer(pictures, ["CE"], cropped=True, explain=True)
    assert asked == [5]
    for row in answer.rows:
        guess = row.guesses["CE"]
        alone = overlay(guess.crop, explain_onnx(models[0], guess.crop, guess.class_index)[0])
        assert np.abs(guess.look.astype(int) - alone).max() <= 1


@pytest.mark.parametrize("faces", [None, [FakeFace((0, 0, 30, 30))]])
def test_different_pictures_of_one_name_stay_apart(models, tmp_path, faces):
    files = []
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        files.append(paint(tmp_path / str(number) / "image.jpg", (80 * number, 9, 9)))
    (tmp_path / "3").mkdir()
    files.append(tmp_path / "3" / "image.jpg")
    files[-1].write_bytes(b"")
    made = service(models, faces)
    answer = made.answer(files, cropped=faces is None)
    names = ["image.jpg", "image.jpg (2)", "image.jpg (3)"]
    assert [answer.label(row) for row in answer.rows] == names
    assert [answer.faces(row) for row in answer.rows] == [int(faces is not None)] * 3
    assert [name for name, _ in answer.errors] == ["image.jpg (4)"]
    assert list(answer.heat_map().rows) == names
    assert [line.split(",")[0] for line in to_csv(answer.heat_map()).splitlines()[1::2]] == names
    assert "of 3" not in results_html(answer)
    assert all(f'aria-label="{name}"' in results_html(answer) for name in names)
    got = answer_call({"age": made}, [str(file) for file in files], None, faces is None)
    assert [seen["name"] for seen in got["pictures"]] == names


def test_the_same_upload_twice_is_answered_once(models, tmp_path):
    file = paint(tmp_path / "a.png", (1, 2, 3))
    assert len(service(models).answer([file, file], cropped=True).rows) == 1


# The endpoint /predict.


def test_the_endpoints_schema(models, tmp_path):
    file = paint(tmp_path / "a.png", (1, 2, 3))
    got = answer_call({"age": service(models)}, [{"path": str(file)}], None, True, "4-6")
    assert set(got) == {"pictures", "errors", "status"}
    [seen] = got["pictures"]
    assert set(seen) == {"name", "face", "box", "true", "models", "warnings"}
    assert (seen["name"], seen["face"], seen["box"], seen["true"]) == ("a.png", None, None, "4-6")
    said = seen["models"]["CE"]
    assert set(said) == {"class", "probability", "probs"}
    assert tuple(said["probs"]) == GROUPS
    assert sum(said["probs"].values()) == pytest.approx(1, abs=1e-5)
    assert said["probability"] == max(said["probs"].values()) == said["probs"][said["class"]]


def test_a_calibrated_model_tells_its_set_and_the_other_nothing(models, tmp_path):
    entry = ENTRY | {"sets": SETS | {"q": 0.0}}
    write_tiny(tmp_path / "set.onnx", tiny_facts(title="set", calibration=entry))
    made = [OnnxClassifier(tmp_path / "set.onnx", device="cpu", threads=1), models[0]]
    file = paint(tmp_path / "a.png", (1, 2, 3))
    said = answer_call({"age": service(made)}, [str(file)], None, True)["pictures"][0]["models"]
    name = said["set"]["class"]
    assert said["set"]["set"] == [name]
    told = f"In about 90 of 100 pictures of new people the right group is among: {name}."
    assert said["set"]["told"] == told
    assert set(said["CE"]) == {"class", "probability", "probs"}


def test_the_first_title_chooses_the_tab(models, tmp_path):
    file = write_tiny(tmp_path / "bird.onnx", tiny_facts(task="category", crop=None, title="bird"))
    services = {"age": service(models), "category": service([OnnxClassifier(file, device="cpu", threads=1)])}
    picture = str(paint(tmp_path / "a.png", (1, 2, 3)))
    assert set(answer_call(services, [picture], ["bird"])["pictures"][0]["models"]) == {"bird"}
    assert set(answer_call(services, [picture], None, True)["pictures"][0]["models"]) == {"CE", "CRL"}
    mixed = answer_call(services, [picture], ["CE", "bird"], True)
    assert "no model is called bird" in mixed["errors"][0]["reason"]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (1, 5, "models must be"),
        (1, {"a": 1}, "models must be"),
        (1, False, "models must be"),
        (1, ["CE", 1], "models must be"),
        (2, "false", "already_cropped must be true or false"),
        (2, 1, "already_cropped must be true or false"),
        (2, [False], "already_cropped must be true or false"),
        (3, 5, "true_class must be"),
        (3, ["4-6"], "true_class must be"),
        (3, False, "true_class must be"),
        (0, 5, "files must be"),
        (0, None, "files must be"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_never_guessed_at(models, tmp_path, place, value, words):
    values: list[object] = [[str(paint(tmp_path / "a.png", (1, 2, 3)))], None, True, None]
    assert len(answer_call({"age": service(models)}, *values)["pictures"]) == 1
    values[place] = value
    got = answer_call({"age": service(models)}, *values)
    assert got["pictures"] == []
    [error] = got["errors"]
    assert words in error["reason"]


@pytest.mark.parametrize(
    "values",
    [(None,), (5,), ([5],), ([{"path": 7}],), ([], {"a": 1}), (["a"], [3]), (["a"], None, True, [1])],
)
def test_any_json_gets_an_answer_in_words(models, values):
    got = answer_call({"age": service(models)}, *values)
    assert got["pictures"] == []
    assert got["errors"][0]["reason"]

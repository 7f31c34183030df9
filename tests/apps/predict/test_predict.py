from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from agecls.faces.alignment import Face, crop_face
from agecls.faces.crop import FaceCrop
from apps.predict.inputs import find_sources
from apps.predict.loader import Seen
from apps.predict.predict import Answer, ViewCutter, predict_pictures, unique_titles
from apps.runtime.session import OnnxClassifier
from tests.apps.tiny_onnx import SPEC, expected_probs, tiny_facts, write_tiny
from tests.apps.video import write_video


def model(folder: Path, name: str = "model", *, seed: int = 0, **facts: object) -> OnnxClassifier:
    return OnnxClassifier(write_tiny(folder / f"{name}.onnx", tiny_facts(**facts), seed=seed), device="cpu")


def pictures(count: int, side: int = 40) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (side, side + number, 3), dtype=np.uint8) for number in range(count)]


class Squares:
    """Finds a face for every number in the upper left pixel: it lies at (4 n, 0) and is 8 - n px wide."""

    def detect(self, image: np.ndarray) -> list[Face]:
        return [Face((4.0 * n, 0.0, 8.0 - n, 8.0 - n), 0.9) for n in range(int(image[0, 0, 0]))]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_are_those_of_the_model_in_order(tmp_path: Path, batch_size: int):
    shown = pictures(7)
    one = model(tmp_path)
    answers = list(predict_pictures([one], shown, batch_size=batch_size))
    expected = expected_probs(np.stack([one.prepare(picture) for picture in shown]))
    np.testing.assert_allclose(np.stack([answer.probs for answer in answers]), expected, atol=1e-5)
    assert [answer.index for answer in answers] == list(range(7))
    assert answers[3].top(1) == [
        (one.class_names[expected[3].argmax()], pytest.approx(expected[3].max(), 1e-4))
    ]
    assert answers[3].class_index == expected[3].argmax()
    np.testing.assert_array_equal(answers[3].crop, one.prepare(shown[3]))


def test_batches_run_across_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, sizes = model(tmp_path), []
    run = one.run
    monkeypatch.setattr(one, "run", lambda batch: sizes.append(len(batch)) or run(batch))
    list(predict_pictures([one], pictures(10), batch_size=4))
    assert sorted(sizes) == [2, 4, 4]


def test_a_bad_picture_is_one_answer_in_its_place(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    models = [model(tmp_path, "a"), model(tmp_path, "b", seed=1)]
    shown = [pictures(1)[0], tmp_path / "empty.jpg", pictures(1)[0]]
    answers = list(predict_pictures(models, shown, batch_size=2))
    assert [(each.index, each.status, each.model) for each in answers] == [
        (0, "ok", 0),
        (0, "ok", 1),
        (1, "bad", None),
        (2, "ok", 0),
        (2, "ok", 1),
    ]
    assert answers[2].reason == "the file is empty (0 bytes)"
    assert answers[2].top(3) == []
    assert answers[2].class_index is None


def test_only_bad_pictures_do_not_wait_for_a_batch(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()

    def endless():
        while True:
            yield tmp_path / "empty.jpg"

    stream = predict_pictures([model(tmp_path)], endless(), batch_size=2)
    assert [next(stream).status for _ in range(30)] == ["bad"] * 30
    stream.close()


def test_a_picture_is_decoded_once_and_prepared_once_for_models_alike(tmp_path: Path, monkeypatch):
    import apps.predict.loader as stream
    import apps.predict.predict as answering

    cv2.imwrite(str(tmp_path / "a.png"), pictures(1)[0])
    small = replace(SPEC, image_size=24, resize_size=24)
    models = [
        model(tmp_path, "a"),
        model(tmp_path, "b", seed=1),
        model(tmp_path, "c", seed=2, preprocess=small),
    ]
    decoded, prepared = [], []
    decode = stream.decode_guarded
    monkeypatch.setattr(stream, "decode_guarded", lambda *a, **k: decoded.append(1) or decode(*a, **k))
    views = answering.views
    monkeypatch.setattr(answering, "views", lambda *words: prepared.append(1) or views(*words))
    answers = list(predict_pictures(models, [tmp_path / "a.png"]))
    assert [answer.crop.shape[0] for answer in answers] == [32, 32, 24]
    assert (len(decoded), len(prepared)) == (1, 2)


def test_every_face_is_cut_as_each_model_expects(tmp_path: Path):
    faces = [model(tmp_path, "a"), model(tmp_path, "b", crop={"style": "plain", "margin": 0.0})]
    shown = pictures(1)[0].copy()
    shown[0, 0] = 2
    answers = list(predict_pictures(faces, [shown], detector=Squares()))
    assert [(each.face_number, each.model) for each in answers] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert [each.face.box[0] for each in answers] == [0.0, 0.0, 4.0, 4.0]
    tight = shown[0:7, 4:11]
    assert abs(answers[3].crop.mean(axis=(0, 1)) - tight.mean(axis=(0, 1))).max() < 12
    assert not np.array_equal(answers[2].crop, answers[3].crop)


def test_no_face_is_one_answer_and_a_model_without_a_crop_sees_the_whole_picture(tmp_path: Path):
    models = [model(tmp_path, "a"), model(tmp_path, "b", crop=None)]
    none, one = pictures(1)[0].copy(), pictures(1)[0].copy()
    none[0, 0], one[0, 0] = 0, 1
    answers = list(predict_pictures(models, [none, one], detector=Squares()))
    assert [(each.index, each.status, each.face_number, each.model) for each in answers] == [
        (0, "ok", None, 1),
        (0, "no face", None, None),
        (1, "ok", None, 1),
        (1, "ok", 1, 0),
    ]
    np.testing.assert_array_equal(answers[2].crop, models[1].prepare(one))


def test_models_without_a_crop_are_not_made_to_wait_for_a_detector(tmp_path: Path):
    class Refuses:
        def detect(self, image: np.ndarray) -> list[Face]:
            raise AssertionError("nobody asked for faces")

    cutter = ViewCutter([model(tmp_path, crop=None)], Refuses())
    views = cutter(pictures(1)[0])
    assert len(views) == 1
    assert cutter.waiting(Seen(0, "a", views)) == [(Seen(0, "a", views), views[0])]


def test_many_faces_fill_several_batches(tmp_path: Path):
    shown = pictures(1, side=64)[0].copy()
    shown[0, 0] = 7
    answers = list(predict_pictures([model(tmp_path)], [shown], detector=Squares(), batch_size=3))
    assert [each.face_number for each in answers] == list(range(1, 8))


def test_a_video_gives_an_answer_per_frame(tmp_path: Path):
    clip = find_sources([str(write_video(tmp_path / "clip.mp4"))])
    answers = list(predict_pictures([model(tmp_path)], clip.sources, fps=1.0, batch_size=2))
    assert [round(each.time, 3) for each in answers] == [0.0, 1.0, 2.0, 3.0]


def test_a_picture_that_resizing_would_blow_up_is_bad(tmp_path: Path):
    long = replace(SPEC, resize="short")
    answers = list(
        predict_pictures([model(tmp_path, preprocess=long)], [np.zeros((1, 500_000, 3), np.uint8)])
    )
    assert [each.status for each in answers] == ["bad"]
    assert "too long and narrow" in answers[0].reason


def test_equal_titles_are_numbered(tmp_path: Path):
    models = [model(tmp_path, name, title=title) for name, title in zip("abc", ("x", "y", "x"), strict=True)]
    assert unique_titles(models) == ["x (1)", "y", "x (2)"]


def test_the_first_of_equal_classes_is_the_answer():
    answer = Answer(0, "a", "ok", class_names=("a", "b", "c"), probs=np.array([0.2, 0.4, 0.4]))
    assert answer.top(2) == [("b", 0.4), ("c", 0.4)]
    assert answer.class_index == 1


@pytest.mark.parametrize(
    ("asked", "used"),
    [("run", ["ten", "flip", "center"]), ("center", ["center"] * 3), ("ten", ["ten"] * 3)],
)
def test_views_are_averaged_as_the_scores_were_measured_or_as_asked(
    tmp_path: Path, asked: str, used: list[str]
):
    room = replace(SPEC, resize_size=44)
    measured = ("ten", "flip", "center")
    models = [model(tmp_path, crops, seed=2, preprocess=room, test_crops=crops) for crops in measured]
    shown = pictures(3, 60)
    answers = list(predict_pictures(models, shown, test_crops=asked))
    for place, (one, crops) in enumerate(zip(models, used, strict=True)):
        expected = one.predict(shown, test_crops=crops)
        found = [answer for answer in answers if answer.model == place]
        for answer, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(answer.probs, other.probs, atol=1e-6)
            np.testing.assert_array_equal(answer.crop, other.crop)  # the centre, whatever is averaged
    whole = [answer.probs for answer in answers if answer.model == 0]
    alone = [answer.probs for answer in predict_pictures(models[:1], shown)]
    assert np.allclose(whole, alone, atol=1e-6) == (asked == "center")


def test_the_views_of_a_face_are_averaged_too(tmp_path: Path):
    room = replace(SPEC, resize_size=44)
    one = model(tmp_path, seed=2, preprocess=room, test_crops="ten", crop={"style": "plain", "margin": 0.0})
    shown = pictures(1)[0].copy()
    shown[0, 0] = 1
    [answer] = predict_pictures([one], [shown], detector=Squares(), test_crops="run")
    cut = crop_face(shown, answer.face, FaceCrop("plain", 0.0), 44)
    [expected] = one.predict([cut], test_crops="ten")
    np.testing.assert_allclose(answer.probs, expected.probs, atol=1e-6)
    assert answer.crop.shape == (32, 32, 3)


@pytest.mark.parametrize(("batch_size", "sizes"), [(32, [10, 30, 30]), (4, [10] * 7)])
def test_all_views_of_a_few_pictures_are_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int, sizes: list[int]
):
    one, seen = model(tmp_path, test_crops="ten"), []
    run = one.run
    monkeypatch.setattr(one, "run", lambda batch: seen.append(len(batch)) or run(batch))
    list(predict_pictures([one], pictures(7), batch_size=batch_size, test_crops="run"))
    assert sorted(seen) == sizes

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from agecls.faces import detector as faces_module
from agecls.faces.alignment import Face, crop_face, template
from agecls.faces.crop import FaceCrop
from agecls.faces.detector import (
    DETECTOR_VARIABLE,
    FaceDetector,
    build_detector,
    find_detector,
    missing_detector_message,
    without_repeats,
)
from finetune.errors import ModelFileError, UsageError
from finetune.images.decode import decode_image
from tests.apps.tiny_onnx import write_tiny

GREY = np.full((400, 300, 3), 120, np.uint8)


@pytest.fixture(scope="module")
def yunet_file(real_data: Path) -> Path:
    return next((real_data / "face_detection").glob("face_detection_yunet*.onnx"))


@pytest.fixture(scope="module")
def yunet(yunet_file: Path) -> FaceDetector:
    detector = build_detector(str(yunet_file))
    assert detector is not None
    return detector


@pytest.fixture(scope="module")
def astronaut(real_data: Path) -> np.ndarray:
    return decode_image(real_data / "photos" / "astronaut.png")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder and a cache folder without any detector."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CRL_CACHE", raising=False)
    monkeypatch.delenv(DETECTOR_VARIABLE, raising=False)
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)
    return tmp_path


class Looker(FaceDetector):
    """Finds what it is told to, in images whose longer side is in `answers`; remembers every look."""

    def __init__(self, answers: dict[int, list[tuple[object, float, object]]]) -> None:
        super().__init__()
        self.answers, self.looks = answers, []

    def _find(self, image):
        self.looks.append(image.shape[:2])
        return self.answers.get(max(image.shape[:2]), [])


# --- a face


def test_a_face_tells_its_geometry():
    eyes_level = np.array([(100, 100), (160, 100), (130, 130), (105, 160), (155, 160)], dtype=float)
    face = Face((80, 60, 100, 130), 0.9, eyes_level)
    assert (face.eye_distance, face.tilt, face.turn) == (60, 0, 0)
    assert face.warnings() == []
    falling = Face((80, 60, 100, 130), 0.9, eyes_level + np.array([(0, 0), (0, 60), (0, 0), (0, 0), (0, 0)]))
    assert falling.tilt == pytest.approx(45)
    assert Face((0, 0, 10, 10), float("nan")).tilt == 0
    assert np.isnan(Face((0, 0, 10, 10), float("nan")).eye_distance)
    assert Face((0, 0, 10, 10), float("nan")).warnings() == []


def test_a_face_warns_when_it_is_small_unsure_or_turned_away():
    points = np.array([(100, 100), (119, 100), (109.5, 110), (103, 120), (116, 120)], dtype=float)
    (small,) = Face((90, 90, 40, 50), 0.9, points).warnings()
    assert "19 px" in small
    large = (points - 100) * 4 + 100
    (unsure,) = Face((0, 0, 200, 200), 0.7, large).warnings()
    assert "70 % sure" in unsure
    aside = large.copy()
    aside[2, 0] -= 0.31 * (large[1, 0] - large[0, 0])
    (turned,) = Face((0, 0, 200, 200), 0.9, aside).warnings()
    assert "turned" in turned


@pytest.mark.parametrize(("degrees", "warned"), [(0, 0), (55, 0), (65, 1), (-90, 1), (180, 1)])
def test_a_face_warns_when_its_picture_is_not_upright(degrees, warned):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    points = np.array([(-40, -30), (40, -30), (0, 0), (-30, 40), (30, 40)]) @ np.array(
        [[cos, sin], [-sin, cos]]
    )
    told = Face((0, 0, 200, 200), 0.9, points + 100).warnings()
    assert len(told) == warned
    assert all(f"tilted by {abs(degrees)} degrees" in words for words in told)


# --- how an image is looked at


@pytest.mark.parametrize(
    ("height", "width", "looks"),
    [
        (4000, 3000, [(640, 480), (320, 240), (160, 120), (1280, 960)]),
        (400, 300, [(400, 300), (200, 150), (160, 120), (1280, 960)]),
        (200, 256, [(250, 320), (125, 160), (125, 160), (1000, 1280)]),
        (8, 9000, [(1, 640), (1, 320), (1, 160), (1, 1280)]),
        (8, 8, [(320, 320), (160, 160), (160, 160), (1280, 1280)]),
    ],
)
def test_a_picture_without_a_face_is_looked_at_in_several_sizes(height, width, looks):
    detector = Looker({})
    assert detector.detect(np.zeros((height, width, 3), np.uint8)) == []
    assert detector.looks == looks


def test_boxes_and_landmarks_are_told_in_pixels_of_the_picture():
    marks = template(64).astype(float) + 10
    detector = Looker({640: [(np.array([10, 20, 64, 80]), 0.9, marks)]})
    (face,) = detector.detect(np.zeros((1280, 960, 3), np.uint8))
    assert face.box == (20, 40, 128, 160)
    assert face.landmarks == pytest.approx(2 * marks)
    assert face.score == 0.9


def test_the_first_look_that_finds_something_ends_the_search():
    detector = Looker({160: [(np.array([-5, -5, 100, 100]), 0.9, None)]})
    (face,) = detector.detect(GREY)
    assert face.box == pytest.approx((-12.5, -12.5, 250, 250))
    assert [max(look) for look in detector.looks] == [400, 200, 160]


def test_small_faces_come_from_the_fine_look_and_large_ones_from_the_coarse_one():
    fine = [(np.array([10, 10, 50, 50]), 0.7, None), (np.array([100, 100, 400, 400]), 0.7, None)]
    coarse = [(np.array([6, 6, 25, 25]), 0.8, None), (np.array([52, 52, 200, 200]), 0.8, None)]
    found = Looker({640: fine, 320: coarse}).detect(np.zeros((640, 640, 3), np.uint8))
    assert [(face.box, face.score) for face in found] == [
        ((104, 104, 400, 400), 0.8),
        ((10, 10, 50, 50), 0.7),
    ]
    only_fine = Looker({640: fine}).detect(np.zeros((640, 640, 3), np.uint8))
    assert [face.box[2] for face in only_fine] == [400, 50]


def test_what_is_no_face_is_left_out():
    marks = template(50)
    garbage = [
        (np.array([np.nan, 0, 10, 10]), 0.9, marks),
        (np.array([0, 0, np.inf, 10]), 0.9, marks),
        (np.array([0, 0, 0, 10]), 0.9, marks),
        (np.array([0, 0, -10, 10]), 0.9, marks),
        (np.array([900, 0, 10, 10]), 0.9, marks),
        (np.array([-30, 0, 10, 10]), 0.9, marks),
        (np.array([0, 0, 10, 10]), 0.9, np.full((5, 2), np.nan)),
        (np.array([0, 0, 10, 10]), 0.9, np.full((5, 2), 7.0)),
    ]
    assert Looker({400: garbage}).detect(GREY) == []


def test_boxes_that_share_half_of_the_smaller_one_are_one_face():
    first, inside, beside = (
        Face((0, 0, 100, 100), 0.9),
        Face((10, 10, 20, 20), 0.8),
        Face((60, 0, 100, 100), 0.7),
    )
    assert without_repeats([first, inside, beside]) == [first, beside]
    assert without_repeats([inside, first]) == [inside]


@pytest.mark.parametrize(
    "wrong", [np.zeros((20, 20), np.uint8), np.zeros((20, 20, 3)), np.zeros((0, 9, 3), np.uint8)]
)
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="an image must be uint8"):
        Looker({}).detect(wrong)


# --- where the detector comes from


def test_without_any_detector_there_is_none_and_a_message_says_what_to_do(nowhere):
    assert find_detector() is None
    assert build_detector() is None
    told = missing_detector_message()
    assert "OpenCV Zoo" in told
    assert "MIT" in told
    assert str(nowhere / "cache" / "crl-toolkit") in told
    assert "http" not in told


def test_the_usual_places_in_their_order(nowhere, monkeypatch):
    def put(place: str) -> Path:
        file = nowhere / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
        return file

    weights = put("weights/face_detection_yunet_2023mar.onnx")
    assert find_detector().resolve() == weights
    here = put("face_detection_yunet_2023mar_int8.onnx")
    assert find_detector().resolve() == here
    plain = put("face_detection_yunet_2022mar.onnx")
    assert find_detector().resolve() == plain, "a quantised file comes last"
    newer = put("face_detection_yunet_2026may.onnx")
    assert find_detector().resolve() == newer
    cached = put("cache/crl-toolkit/face_detection_yunet_2023mar.onnx")
    assert find_detector() == cached
    named = put("elsewhere/mine.onnx")
    monkeypatch.setenv(DETECTOR_VARIABLE, str(named))
    assert find_detector() == named
    assert find_detector(str(cached)) == cached


def test_a_named_file_must_be_there(nowhere, monkeypatch):
    for absent in ("nope.onnx", str(nowhere)):
        with pytest.raises(UsageError, match="there is no such file"):
            build_detector(absent)
    monkeypatch.setenv(DETECTOR_VARIABLE, "nope.onnx")
    with pytest.raises(UsageError, match=DETECTOR_VARIABLE):
        build_detector()


@pytest.mark.parametrize(
    "content",
    [b"", b"hello, I am no model", b"<html>404</html>", bytes(range(256)) * 500, "tiny", "cut", "large"],
    ids=["empty", "text", "web page", "noise", "classifier", "cut short", "too large"],
)
def test_a_file_that_is_no_detector_is_refused_in_words(content, tmp_path, request, capfd, monkeypatch):
    file = tmp_path / "face_detection_yunet.onnx"
    if content == "tiny":
        write_tiny(file)
    elif content == "cut":
        file.write_bytes(request.getfixturevalue("yunet_file").read_bytes()[:100_000])
    elif content == "large":
        file.write_bytes(b"x" * 1001)
        monkeypatch.setattr(faces_module, "MAX_FILE_BYTES", 1000)
    else:
        file.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"face_detection_yunet\.onnx"):
        build_detector(str(file))
    assert capfd.readouterr() == ("", "")


def test_opencvs_old_cascade_serves_where_it_exists(nowhere, monkeypatch):
    class Cascade:
        def __init__(self, file: str) -> None:
            self.file = file

        def empty(self) -> bool:
            return "damaged" in Path(self.file).read_text()

        def detectMultiScale(self, grey, scale, neighbours):  # noqa: N802 (OpenCV's own name)
            assert grey.ndim == 2
            return np.array([[40, 30, 60, 60]]) if max(grey.shape) == 400 else ()

    file = nowhere / "haarcascade_frontalface_default.xml"
    monkeypatch.setattr(cv2, "CascadeClassifier", Cascade, raising=False)
    monkeypatch.setattr(cv2, "data", SimpleNamespace(haarcascades=str(nowhere)), raising=False)
    assert build_detector() is None, "the cascade's own file may be missing"
    file.write_text("cascade")
    detector = build_detector()
    assert detector is not None
    assert "Haar" in detector.name
    (face,) = detector.detect(GREY)
    assert (face.box, face.landmarks) == ((40, 30, 60, 60), None)
    assert crop_face(GREY, face, FaceCrop.of("faces"), 32).shape == (32, 32, 3)
    file.write_text("damaged")
    with pytest.raises(ModelFileError, match="no cascade"):
        build_detector()


# --- real images


def test_the_astronaut_is_found_and_the_cat_is_not(yunet, astronaut, real_data, capfd):
    (face,) = yunet.detect(astronaut)
    x, y, width, height = face.box
    assert (170 < x < 190, 55 < y < 75, 80 < width < 100, 100 < height < 125) == (True,) * 4
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert face.warnings() == []
    assert face.score > 0.9
    assert "yunet" in yunet.name
    assert yunet.detect(decode_image(real_data / "photos" / "chelsea.png")) == []
    assert capfd.readouterr() == ("", "")


def test_several_faces_come_largest_first(yunet, astronaut):
    scene = np.full((700, 1500, 3), 90, np.uint8)
    scene[100:612, 0:512] = astronaut
    scene[100:356, 600:856] = cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA)
    scene[0:700, 800:1500] = cv2.resize(astronaut, (700, 700))
    found = yunet.detect(scene)
    assert len(found) == 3
    areas = [face.box[2] * face.box[3] for face in found]
    assert areas == sorted(areas, reverse=True)
    assert found[0].box[0] > 800


def test_a_face_cut_by_the_edge_may_have_negative_coordinates(yunet, astronaut):
    (face,) = yunet.detect(np.ascontiguousarray(astronaut[80:, 195:]))
    assert face.box[0] < 0
    assert face.box[1] < 0
    for style in ("aligned", "faces", "plain"):
        assert crop_face(astronaut[80:, 195:], face, FaceCrop.of(style), 64).shape == (64, 64, 3)


@pytest.mark.parametrize("style", ["aligned", "faces"])
@pytest.mark.parametrize(("degrees", "scale"), [(15, 1.0), (-20, 1.6), (25, 0.8), (0, 3.0)])
def test_a_turned_and_scaled_copy_gives_nearly_the_same_crop(yunet, astronaut, style, degrees, scale):
    def seen(image: np.ndarray) -> np.ndarray:
        crop = crop_face(image, yunet.detect(image)[0], FaceCrop.of(style), 96)
        return cv2.blur(crop, (5, 5)).astype(float)

    turn = cv2.getRotationMatrix2D((222, 119), degrees, scale)
    turn[:, 2] += scale * np.array([256, 256]) - (222, 119)
    side = round(512 * scale)
    copy = cv2.warpAffine(astronaut, turn, (side, side), borderMode=cv2.BORDER_REPLICATE)
    upright, turned = seen(astronaut), seen(copy)
    inner = (slice(20, 76), slice(20, 76))
    difference = np.abs(upright[inner] - turned[inner]).mean()
    other = np.abs(upright[inner] - upright[inner][:, ::-1]).mean()
    assert difference < 12
    assert difference < 0.7 * other, "nearer than the face's own mirror image"


def test_heads_that_fill_their_picture_are_found(yunet, real_data):
    files = sorted((real_data / "fgnet" / "images").iterdir())[::50]
    found = [yunet.detect(decode_image(file)) for file in files]
    assert all(found)
    assert all(300 > face.eye_distance > 20 for face, *_ in found)
    enlarged = [cv2.resize(decode_image(file), None, fx=6, fy=6) for file in files[:4]]
    assert all(yunet.detect(image) for image in enlarged)
    box = found[0][0].box
    tight = decode_image(files[0])[int(box[1]) : int(box[1] + box[3]), int(box[0]) : int(box[0] + box[2])]
    assert yunet.detect(np.ascontiguousarray(tight))


def test_a_face_keeps_its_place_in_a_picture_of_any_size(yunet, astronaut):
    scene = np.full((3000, 4000, 3), 90, np.uint8)
    scene[1000:1512, 3000:3512] = astronaut
    (face,) = yunet.detect(scene)
    assert face.box == pytest.approx((3178, 1063, 90, 113), abs=8)
    tiny = cv2.resize(astronaut, (64, 64), interpolation=cv2.INTER_AREA)
    (small,) = yunet.detect(tiny)
    assert small.box == pytest.approx((22.3, 7.9, 11.2, 14.1), abs=2)
    assert any("px apart" in told for told in small.warnings())


def test_threads_share_one_detector(yunet, astronaut):
    pictures = [
        astronaut,
        np.ascontiguousarray(astronaut[:, ::-1]),
        np.ascontiguousarray(astronaut[:300, :400]),
    ]
    alone = [yunet.detect(image)[0].box for image in pictures]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(4):
            if yunet.detect(pictures[index % 3])[0].box != alone[index % 3]:
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_look_at_a_time_however_many_threads():
    inside, most = [0], [0]

    class Slow(FaceDetector):
        def _find(self, image):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= 1
            return []

    slow = Slow()
    threads = [threading.Thread(target=slow.detect, args=(GREY,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]

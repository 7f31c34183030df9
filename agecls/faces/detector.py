"""Where the faces in an image are: YuNet through OpenCV, with five landmarks each.

YuNet is used as it works best, measured on FG-NET (1,002 heads of 256 px): at a side of 320 px it finds every
one, enlarged to 640 px it misses 8, at 1280 px 305. Faces should be 10 to 300 px wide, so every image is
looked at twice, and its landmarks depend on size and tilt, so each face is looked at once more, upright and
of one size: that halves their spread over turned and scaled copies (0.071 to 0.038 of the eyes' distance).

Coordinates are continuous px of the image given, x to the right and y down (`agecls.faces.alignment`).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from agecls.faces.alignment import Face, fit_similarity, warp_square
from finetune.cli.machine import user_cache
from finetune.errors import ModelFileError, UsageError
from finetune.images.preprocess import resize

DETECTOR_VARIABLE = "CRL_FACE_DETECTOR"
HAAR_FILE = "haarcascade_frontalface_default.xml"
FILE_PATTERN = "face_detection_yunet*.onnx"
MAX_FILE_BYTES = 50_000_000
SCORE, OVERLAP, CANDIDATES = 0.6, 0.3, 5000

FINE, COARSE = 640, 320
LAST_RESORTS = (160, 1280)
LARGEST = 300
# The second look: the face upright in the middle of this square, its landmarks where an average face of half
# the square's side has them.
UPRIGHT = 320
UPRIGHT_LANDMARKS = UPRIGHT * np.array([(0.39, 0.45), (0.61, 0.45), (0.5, 0.55), (0.41, 0.66), (0.59, 0.66)])


def missing_detector_message() -> str:
    """Return what to fetch and where to put it, for a user without a face detector."""
    cache = user_cache()
    place = "" if cache is None else f"{cache} or "
    return (
        "no face detector was found. Get face_detection_yunet_2026may.onnx (OpenCV 5) or "
        "face_detection_yunet_2023mar.onnx (OpenCV 4.8 and later) from OpenCV Zoo, folder models/"
        f"face_detection_yunet (MIT licence, 230 kB), and put it into {place}./weights, "
        f"name it by --detector FILE, or set {DETECTOR_VARIABLE}"
    )


def find_detector(path: str | None = None) -> Path | None:
    """Return the detector's file: the one given, the one CRL_FACE_DETECTOR names, or one in a usual place.

    The usual places are the user's cache folder (~/.cache/crl-toolkit), the working folder and its weights/.
    Of several files the latest is taken, quantised ones last. None where there is none.

    Raises UsageError when a file that was named is not there.
    """
    for given, source in ((path, "--detector"), (os.environ.get(DETECTOR_VARIABLE), DETECTOR_VARIABLE)):
        if given:
            if not Path(given).is_file():
                raise UsageError(f"{source} {given}: there is no such file; {missing_detector_message()}")
            return Path(given)
    cache = user_cache()
    for folder in (*([] if cache is None else [cache]), Path(), Path("weights")):
        files = sorted((file for file in folder.glob(FILE_PATTERN) if file.is_file()), reverse=True)
        if files:
            return min(files, key=lambda file: "int8" in file.name)
    return None


def build_detector(path: str | None = None) -> FaceDetector | None:
    """Return a face detector: YuNet where its file is found, else OpenCV 4's Haar cascade, else None.

    Raises UsageError for a named file that is absent, ModelFileError for a file that is no YuNet model.
    """
    file = find_detector(path)
    if file is not None:
        return YuNetDetector(file)
    if hasattr(cv2, "CascadeClassifier") and hasattr(cv2, "data"):  # OpenCV 5 has no cascades any more
        cascade = Path(cv2.data.haarcascades) / HAAR_FILE  # type: ignore[attr-defined]
        if cascade.is_file():
            return HaarDetector(cascade)
    return None


class FaceDetector:
    """Finds faces at several sizes; any number of threads may call one detector.

    `name` says what it is, for people and records.
    """

    name = "face detector"

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of an image, the largest first; none where there is none.

        `image` is uint8 (H, W, 3) RGB of any size. The image is looked at with its longer side at 640 px
        (less, but 320 at least, where it is smaller) for small faces, and at half of that for faces that fill
        it; where nothing is found, at 160 and at 1280 px.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ValueError(f"an image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
        with self._lock:
            side = min(max(max(image.shape), COARSE), FINE)
            fine, coarse = self._look(image, side), self._look(image, side // 2)
            scale = max(image.shape[:2]) / side
            small = [face for face in fine if max(face.box[2:]) <= LARGEST * scale]
            faces = without_repeats([*small, *coarse, *fine])
            for last in LAST_RESORTS:
                faces = faces or self._look(image, last)
            faces = [self._look_again(image, face) for face in faces]
        return sorted(faces, key=lambda face: face.box[2] * face.box[3], reverse=True)

    def _look(self, image: np.ndarray, side: int) -> list[Face]:
        """Return the faces found with the image's longer side at `side` px, in the image's own px."""
        height, width = image.shape[:2]
        scale = side / max(height, width)
        small = resize(image, max(1, round(height * scale)), max(1, round(width * scale)), "bilinear")
        back = np.array([width / small.shape[1], height / small.shape[0]])
        faces = []
        for box, score, landmarks in self._find(small):
            place = (np.asarray(box, dtype=float).reshape(2, 2) * back).ravel()
            marks = None if landmarks is None else landmarks * back
            x, y, w, h = (float(value) for value in place)
            faces.append(Face((x, y, w, h), float(score), marks))
        return [face for face in faces if _is_sound(face, width, height)]

    def _look_again(self, image: np.ndarray, face: Face) -> Face:
        """Return the face with the box and landmarks that are found when it is upright and of one size."""
        if face.landmarks is None:
            return face
        matrix = fit_similarity(face.landmarks, UPRIGHT_LANDMARKS)
        upright = warp_square(image, matrix, UPRIGHT, repeat_edge=True)
        middle = np.array([UPRIGHT, UPRIGHT]) / 2
        found = [again for again in self._look(upright, UPRIGHT) if again.landmarks is not None]
        if not found:
            return face
        nearest = min(found, key=lambda again: float(np.linalg.norm(_middle(again) - middle)))
        if np.abs(_middle(nearest) - middle).max() > UPRIGHT / 8:
            return face
        x, y, w, h = nearest.box
        points = np.vstack([_marks(nearest), [[x + w / 2, y + h / 2]]])
        points = np.linalg.solve(matrix[:, :2], (points - matrix[:, 2]).T).T
        scale = float(np.linalg.det(matrix[:, :2])) ** 0.5
        w, h = w / scale, h / scale
        box = (float(points[5, 0] - w / 2), float(points[5, 1] - h / 2), w, h)
        return replace(face, box=box, landmarks=points[:5])

    def _find(self, image: np.ndarray) -> list[tuple[np.ndarray, float, np.ndarray | None]]:
        """Return (box (4,), score, landmarks (5, 2) or None) of every face in an image as it is."""
        raise NotImplementedError


class YuNetDetector(FaceDetector):
    """OpenCV's YuNet; raises ModelFileError for a file that is none, saying why."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.name = f"YuNet ({file.name})"
        content = _read_file(file)
        size, options = (UPRIGHT, UPRIGHT), (SCORE, OVERLAP, CANDIDATES)
        level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            self._net = cv2.FaceDetectorYN.create("onnx", content, np.zeros(0, np.uint8), size, *options)
            self._find(np.zeros((UPRIGHT, UPRIGHT, 3), np.uint8))
        except (cv2.error, ValueError) as error:
            reason = str(error).strip().splitlines()[0][-200:] if str(error).strip() else type(error).__name__
            raise ModelFileError(
                f"{file} is no face detector that OpenCV {cv2.__version__} can run ({reason}). Name another "
                "by --detector: face_detection_yunet_2026may.onnx needs OpenCV 5, "
                "face_detection_yunet_2023mar.onnx 4.8 or later; both are in OpenCV Zoo"
            ) from None
        finally:
            cv2.utils.logging.setLogLevel(level)

    def _find(self, image: np.ndarray) -> list[tuple[np.ndarray, float, np.ndarray | None]]:
        self._net.setInputSize(image.shape[1::-1])
        found = self._net.detect(np.ascontiguousarray(image[:, :, ::-1]))[1]
        if found is None:
            return []
        if found.ndim != 2 or found.shape[1] != 15:
            raise ValueError(f"it answers with {found.shape} numbers instead of 15 per face")
        # YuNet names sides as the person does: its "right" eye is the image-left one, and comes first.
        return [(row[:4], float(row[14]), row[4:14].reshape(5, 2).astype(float)) for row in found]


class HaarDetector(FaceDetector):
    """OpenCV 4's frontal-face cascade: boxes without landmarks or scores, for want of anything better."""

    name = "Haar cascade (frontal faces, no landmarks)"

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._cascade = cv2.CascadeClassifier(str(file))  # type: ignore[attr-defined]
        if self._cascade.empty():
            raise ModelFileError(f"{file} is no cascade that OpenCV {cv2.__version__} can read")

    def _find(self, image: np.ndarray) -> list[tuple[np.ndarray, float, np.ndarray | None]]:
        boxes = self._cascade.detectMultiScale(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), 1.1, 5)
        return [(np.asarray(box), float("nan"), None) for box in boxes]


def without_repeats(faces: Sequence[Face]) -> list[Face]:
    """Return the faces without those that repeat one before them: half the smaller box is shared."""
    kept: list[Face] = []
    for face in faces:
        if all(_shared(face, other) < 0.5 for other in kept):
            kept.append(face)
    return kept


def _shared(a: Face, b: Face) -> float:
    """Return the boxes' common area as a fraction of the smaller one."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.box, b.box
    across = max(0.0, min(ax + aw, bx + bw) - max(ax, bx))
    down = max(0.0, min(ay + ah, by + bh) - max(ay, by))
    return across * down / min(aw * ah, bw * bh)


def _is_sound(face: Face, width: int, height: int) -> bool:
    """Return whether all numbers are finite, the box has an area in the image and the landmarks have one."""
    x, y, w, h = face.box
    if not np.isfinite(face.box).all() or w < 1 or h < 1:
        return False
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return False
    if face.landmarks is None:
        return True
    if not np.isfinite(face.landmarks).all():
        return False
    return bool(np.linalg.det(fit_similarity(face.landmarks, UPRIGHT_LANDMARKS)[:, :2]) > 1e-6)


def _marks(face: Face) -> np.ndarray:
    assert face.landmarks is not None
    return face.landmarks


def _middle(face: Face) -> np.ndarray:
    return np.asarray(_marks(face).mean(axis=0))


def _read_file(file: Path) -> np.ndarray:
    try:
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise ModelFileError(f"{file} has {size:,} bytes; a face detector has less than a million")
        content = file.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{file} cannot be read: {error.strerror or error}") from None
    return np.frombuffer(content, dtype=np.uint8)

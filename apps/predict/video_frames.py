"""The frames of a video, a few for each second of it, read one after the other and never held together."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from apps.predict.inputs import is_video
from finetune.errors import UsageError
from finetune.images.decode import MAX_PIXELS, MIN_SIDE, BadImageError

CONTAINERS = "MP4, MOV, AVI, MKV, WebM"
LATEST_END = 1.0  # seconds, or a twentieth of the whole: sound often lasts a little longer than the pictures


@dataclass(frozen=True)
class Frame:
    """One frame: its time from the start in seconds, and its pixels, uint8 (H, W, 3) RGB, upright."""

    time: float
    image: np.ndarray


def read_frames(file: Path, fps: float, *, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """Yield the first frame of a video and then `fps` of them for each second, upright as the file asks.

    Times are the file's own, so a varying frame rate stays right. A video with fewer frames yields each once.
    Every frame in between is decoded too: a jump would land on the nearest key frame instead.

    Raises UsageError unless `fps` is positive, and BadImageError for a file that is no video in a container
    read here, has no frame, frames above `max_pixels` or with a side under 8 px, or ends early; the frames
    before the end have been yielded then.
    """
    check_fps(fps)
    if not is_video(file):
        empty = file.is_file() and file.stat().st_size == 0
        what = (
            "the file is empty (0 bytes)" if empty else f"not a video in a container read here ({CONTAINERS})"
        )
        raise BadImageError(str(file), what)
    capture = _open(file)
    try:
        _check_size(capture, file, max_pixels)
        yield from _sampled(capture, file, fps)
    finally:
        capture.release()


def check_fps(fps: float) -> None:
    """Raise UsageError unless `fps` is a positive number."""
    if not (fps > 0 and math.isfinite(fps)):
        raise UsageError(f"--fps must be a positive number of frames per second, got {fps}")


def _open(file: Path) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints arrive as reasons instead
    # A frame that the file cuts off would otherwise be made up from its beginning.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "fflags;+discardcorrupt")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # an absolute name: one like "concat:a|b" would otherwise be an instruction to FFmpeg
        capture = cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG)
    except (cv2.error, UnicodeError) as error:
        raise BadImageError(str(file), f"the video cannot be opened ({error})") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise BadImageError(str(file), "the video is truncated, damaged or in a format that is not read here")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _check_size(capture: cv2.VideoCapture, file: Path, max_pixels: int) -> None:
    width, height = (int(capture.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels or min(width, height) < MIN_SIDE:
        limits = f"at least {MIN_SIDE} px a side and at most {max_pixels / 1e6:g} megapixels"
        raise BadImageError(str(file), f"its frames have {width} x {height} pixels; needed: {limits}")


def _sampled(capture: cv2.VideoCapture, file: Path, fps: float) -> Iterator[Frame]:
    own_fps = capture.get(cv2.CAP_PROP_FPS)
    own_fps = own_fps if own_fps > 0 else 25.0
    promised = max(0.0, capture.get(cv2.CAP_PROP_FRAME_COUNT)) / own_fps
    count, taken, time = 0, 0, 0.0
    while capture.grab():
        told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        time = told if told > 0 or count == 0 else count / own_fps
        count += 1
        if time < taken / fps - 0.5 / own_fps:
            continue
        good, pixels = capture.retrieve()
        if not good:
            raise BadImageError(str(file), f"the frame at {time:.2f} s cannot be read")
        taken = max(taken + 1, math.floor(time * fps + 1e-6) + 1)
        yield Frame(time, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if count == 0:
        raise BadImageError(str(file), "the video holds no frame that can be read")
    if time + 1 / own_fps < promised - max(LATEST_END, promised / 20):
        raise BadImageError(
            str(file), f"the video ends after {time:.1f} of {promised:.1f} s: truncated or damaged"
        )

from __future__ import annotations

import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from apps.predict.inputs import Source, read_frames
from apps.predict.loader import stream_pictures
from finetune.errors import DataError, UsageError
from finetune.images.decode import BadImageError
from tests.apps.video import frame_number, write_video


def picture(number: int, side: int = 16) -> np.ndarray:
    return np.full((side, side, 3), number, np.uint8)


def decoders() -> list[threading.Thread]:
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("crl-") and thread.name != "crl-end"
    ]


def test_results_come_in_order_however_long_each_takes():
    def work(image: np.ndarray) -> int:
        time.sleep(0.02 if image[0, 0, 0] % 4 == 0 else 0)
        return int(image[0, 0, 0])

    seen = list(stream_pictures([picture(number) for number in range(30)], work, workers=4, ahead=8))
    assert [each.value for each in seen] == list(range(30))
    assert [each.index for each in seen] == list(range(30))


def test_no_more_waits_than_allowed():
    begun, ahead, workers = [], 5, 2

    def pictures():
        for number in range(100):
            begun.append(number)
            yield picture(number)

    stream = stream_pictures(pictures(), lambda image: None, workers=workers, ahead=ahead)
    for taken in range(1, 11):
        next(stream)
        time.sleep(0.02)
        assert len(begun) <= taken + ahead + 1  # the last one stands before the full queue
    stream.close()


def test_work_runs_ahead_in_several_threads():
    barrier = threading.Barrier(3, timeout=5)
    stream = stream_pictures([picture(0)] * 3, lambda image: barrier.wait() >= 0, workers=3, ahead=3)
    assert [each.value for each in stream] == [True] * 3


def test_files_bytes_and_pixels_are_decoded_alike(tmp_path: Path):
    good, png = cv2.imencode(".png", picture(7))
    assert good
    (tmp_path / "a.png").write_bytes(png.tobytes())
    sources = [Source(str(tmp_path / "a.png")), tmp_path / "a.png", str(tmp_path / "a.png"), png.tobytes()]
    seen = list(stream_pictures([*sources, picture(7)], lambda image: image.tolist(), workers=2, ahead=4))
    assert all(each.value == picture(7).tolist() for each in seen)
    assert [each.path for each in seen] == [str(tmp_path / "a.png")] * 3 + ["uploaded bytes", "pixels"]


def test_a_bad_picture_takes_its_place_with_its_reason(tmp_path: Path):
    (tmp_path / "empty.jpg").touch()
    words = [picture(1), tmp_path / "empty.jpg", Source("x", "nothing", "is not there"), picture(2)]
    seen = list(stream_pictures(words, lambda image: 1, workers=2, ahead=4))
    assert [each.value for each in seen] == [1, None, None, 1]
    assert [each.reason for each in seen] == ["", "the file is empty (0 bytes)", "is not there", ""]


def test_a_picture_that_the_work_refuses_is_bad_and_other_errors_end_the_stream():
    def refuse(image: np.ndarray) -> int:
        if image[0, 0, 0] == 1:
            raise DataError("too narrow")
        if image[0, 0, 0] == 2:
            raise BadImageError("pixels", "too dark")
        if image[0, 0, 0] == 3:
            raise RuntimeError("a mistake of ours")
        return 0

    stream = stream_pictures([picture(number) for number in range(4)], refuse, workers=1, ahead=4)
    assert [next(stream).reason for _ in range(3)] == ["", "too narrow", "too dark"]
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        next(stream)
    assert decoders() == []


def test_an_error_of_the_list_reaches_the_reader():
    def pictures():
        yield picture(0)
        raise ValueError("the list broke")

    stream = stream_pictures(pictures(), lambda image: 0, workers=1, ahead=4)
    assert next(stream).value == 0
    with pytest.raises(ValueError, match="the list broke"):
        next(stream)


def test_a_video_stands_in_its_place_frame_by_frame(tmp_path: Path):
    clip = Source(str(write_video(tmp_path / "clip.mp4")), "video")
    seen = list(
        stream_pictures([picture(3, 96), clip, picture(4, 96)], frame_number, workers=2, ahead=3, fps=1.0)
    )
    assert [(each.index, each.time) for each in seen] == [
        (0, None),
        (1, 0.0),
        (1, pytest.approx(1.0)),
        (1, pytest.approx(2.0)),
        (1, pytest.approx(3.0)),
        (2, None),
    ]
    assert [each.value for each in seen[1:5]] == [0, 10, 20, 30]


def test_a_broken_video_gives_a_reason_and_the_next_picture_follows(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    seen = list(stream_pictures([tmp_path / "clip.mp4", picture(1)], lambda image: 1, workers=1, ahead=2))
    assert seen[0].reason.startswith("not a video in a container")
    assert seen[1].value == 1


def test_few_frames_are_held_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clip = Source(str(write_video(tmp_path / "clip.mp4", frames=60)), "video")
    held, most, lock = [0], [0], threading.Lock()

    def counted(path: Path, fps: float):
        for frame in read_frames(path, fps):
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
            yield frame

    def work(image: np.ndarray) -> None:
        time.sleep(0.002)
        with lock:
            held[0] -= 1

    monkeypatch.setattr("apps.predict.loader.read_frames", counted)
    assert len(list(stream_pictures([clip], work, workers=2, ahead=50, fps=10.0))) == 60
    assert most[0] <= 2 + 2  # one per thread, one waiting, one in the feeder's hand


def test_closing_the_stream_ends_its_threads(tmp_path: Path):
    clip = Source(str(write_video(tmp_path / "clip.mp4", frames=40)), "video")
    stream = stream_pictures([clip] * 20, lambda image: time.sleep(0.01), workers=2, ahead=2, fps=10.0)
    next(stream)
    assert decoders() != []
    stream.close()
    assert decoders() == []


def test_opencvs_own_threads_rest_meanwhile_and_come_back():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        seen = list(stream_pictures([picture(0)], lambda image: cv2.getNumThreads(), workers=1, ahead=1))
        assert seen[0].value == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_an_animation_gives_its_first_frame_and_a_notice(tmp_path: Path):
    from PIL import Image

    frames = [Image.fromarray(picture(number)) for number in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    (seen,) = stream_pictures([tmp_path / "a.gif"], lambda image: int(image.mean()), workers=1, ahead=1)
    assert seen.value == 10
    assert seen.notices == (f"{tmp_path / 'a.gif'}: holds several frames; the first one is used",)


def test_a_wrong_rate_is_refused_before_a_picture_is_read():
    with pytest.raises(UsageError, match="--fps"):
        next(stream_pictures([picture(0)], lambda image: 0, workers=1, ahead=1, fps=0))

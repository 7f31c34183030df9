from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apps.predict.video_frames import check_fps, read_frames
from finetune.errors import UsageError
from finetune.images.decode import BadImageError
from tests.apps.video import CODECS, HEIGHT, WIDTH, frame_number, turn_upright_by_metadata, write_video


@pytest.mark.parametrize("suffix", sorted(CODECS))
def test_a_frame_for_every_second_with_its_time(tmp_path: Path, suffix: str):
    frames = list(read_frames(write_video(tmp_path / f"clip{suffix}"), 1.0))
    assert [round(frame.time, 6) for frame in frames] == [0.0, 1.0, 2.0, 3.0]
    assert [frame_number(frame.image) for frame in frames] == [0, 10, 20, 30]
    assert frames[0].image.shape == (HEIGHT, WIDTH, 3)
    assert frames[0].image[:12].min() > 200  # the stripe is up


@pytest.mark.parametrize(
    ("fps", "numbers"),
    [
        (0.5, [0, 20]),
        (2.0, [0, 5, 10, 15, 20, 25, 30]),
        (3.0, [0, 3, 7, 10, 13, 17]),
        (10.0, list(range(35))),
    ],
)
def test_frames_follow_the_rate_asked_for(tmp_path: Path, fps: float, numbers: list[int]):
    frames = list(read_frames(write_video(tmp_path / "clip.mp4"), fps))
    assert [frame_number(frame.image) for frame in frames][: len(numbers)] == numbers


def test_a_rate_above_the_videos_own_gives_every_frame_once(tmp_path: Path):
    frames = list(read_frames(write_video(tmp_path / "clip.mp4", frames=7), 100.0))
    assert [frame_number(frame.image) for frame in frames] == list(range(7))


def test_colours_are_rgb(tmp_path: Path):
    import cv2

    writer = cv2.VideoWriter(
        str(tmp_path / "red.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48)
    )
    writer.write(np.full((48, 64, 3), (0, 0, 255), np.uint8))
    writer.release()
    (frame,) = read_frames(tmp_path / "red.avi", 1.0)
    assert np.abs(frame.image.mean(axis=(0, 1)) - (255, 0, 0)).max() < 5


def test_the_rotation_in_the_file_is_applied(tmp_path: Path):
    file = write_video(tmp_path / "clip.mp4", frames=3)
    turn_upright_by_metadata(file)
    frame = next(read_frames(file, 1.0))
    assert frame.image.shape == (WIDTH, HEIGHT, 3)
    assert frame.image[:, -12:].min() > 200  # the stripe at the top went to the right
    assert frame.image[:12, :12].max() < 60  # the lowest bit of the first frame


@pytest.mark.parametrize(("suffix", "good"), [(".avi", 2), (".mkv", 3)])
def test_a_cut_video_gives_its_frames_and_then_a_reason(tmp_path: Path, suffix: str, good: int):
    file = write_video(tmp_path / f"clip{suffix}")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 6 // 10])
    frames = read_frames(file, 1.0)
    assert [frame_number(next(frames).image) for _ in range(good)] == [0, 10, 20][:good]
    with pytest.raises(BadImageError, match=r"the video ends after [12]\.\d of 3\.5 s: truncated or damaged"):
        next(frames)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html></html>", "not a video in a container read here"),
        (b"#EXTM3U\n#EXTINF:1,\nother.avi\n", "not a video in a container read here"),
        (b"\0\0\0\x1cftypisom\0\0\x02\0" + bytes(500), "truncated, damaged or in a format that is not read"),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "clip.mp4").write_bytes(content)
    with pytest.raises(BadImageError, match=reason):
        list(read_frames(tmp_path / "clip.mp4", 1.0))


def test_ffmpeg_keeps_its_complaints_to_itself(tmp_path: Path):
    data = write_video(tmp_path / "clip.avi").read_bytes()
    (tmp_path / "clip.avi").write_bytes(data[: len(data) // 2] + bytes(3000))
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x1cftypisom\0\0\x02\0" + bytes(500))
    code = """
import sys
from pathlib import Path
from apps.predict.video_frames import read_frames
from finetune.images.decode import BadImageError
for name in sys.argv[1:]:
    try:
        list(read_frames(Path(name), 10.0))
    except BadImageError as error:
        print(error)
"""
    files = [str(tmp_path / "clip.avi"), str(tmp_path / "clip.mp4")]
    run = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    assert len(run.stdout.splitlines()) == 2


@pytest.mark.parametrize("name", ["concat:other.avi", "%02d.avi"])
def test_a_name_is_never_an_instruction(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    write_video(Path("other.avi"), frames=5)
    Path(name).write_bytes(write_video(Path("mine.avi"), frames=2).read_bytes())
    assert len(list(read_frames(Path(name), 10.0))) == 2


def test_frames_that_are_too_large_are_refused_before_one_is_read(tmp_path: Path):
    file = write_video(tmp_path / "clip.mp4", frames=2)
    with pytest.raises(BadImageError, match="its frames have 96 x 64 pixels"):
        next(read_frames(file, 1.0, max_pixels=WIDTH * HEIGHT - 1))


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_must_be_positive(fps: float):
    with pytest.raises(UsageError, match="--fps must be a positive number"):
        check_fps(fps)


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_frame_that_the_file_cuts_off_is_not_made_up(tmp_path: Path, suffix: str):
    whole = write_video(tmp_path / f"whole{suffix}", frames=1).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(whole[: whole.index(b"\xff\xda") + 40])  # a little behind the first picture's own start
    with pytest.raises(BadImageError):
        list(read_frames(cut, 1.0))

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apps.predict.inputs import (
    Source,
    check_fps,
    find_sources,
    is_video,
    natural_key,
    read_frames,
    read_list,
    source_of,
)
from finetune.errors import UsageError
from finetune.images.decode import BadImageError
from tests.apps.video import CODECS, HEIGHT, WIDTH, frame_number, turn_upright_by_metadata, write_video


def names(found, root: Path) -> list[str]:
    return [os.path.relpath(source.path, root) for source in found.sources]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("10.jpg", "2.jpg", "b10/1.png", "B9/x.TIFF", "B9/deep/y.webp", ".hidden.jpg", ".git/z.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "weights.onnx").write_text("no image")
    return tmp_path


def test_a_folder_gives_its_pictures_in_natural_order_files_first(tree: Path):
    assert names(find_sources([str(tree)]), tree) == [
        "2.jpg",
        "10.jpg",
        "B9/x.TIFF",
        "B9/deep/y.webp",
        "b10/1.png",
    ]


def test_a_folder_without_recursion_gives_its_own_pictures(tree: Path):
    assert names(find_sources([str(tree)], recursive=False), tree) == ["2.jpg", "10.jpg"]


def test_words_keep_their_order_and_paths_stay_as_given(tree: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tree)
    found = find_sources(["./b10", "notes.txt", "10.jpg", "2.jpg", "./B9/../2.jpg"])
    assert [source.path for source in found.sources] == [
        "./b10/1.png",
        "notes.txt",
        "10.jpg",
        "2.jpg",
        "./B9/../2.jpg",
    ]
    assert {source.kind for source in found.sources} == {"picture"}


def test_patterns_find_pictures_and_what_they_spell_out(tree: Path):
    assert names(find_sources([f"{tree}/*"], recursive=False), tree) == [
        "2.jpg",
        "10.jpg",
        "B9/x.TIFF",
        "b10/1.png",
    ]
    assert names(find_sources([f"{tree}/**/*.[jpw]*"]), tree) == [
        "2.jpg",
        "10.jpg",
        "B9/deep/y.webp",
        "b10/1.png",
    ]
    assert names(find_sources([f"{tree}/*.txt"]), tree) == ["notes.txt"]
    (source,) = find_sources([f"{tree}/*.gif"]).sources
    assert source == Source(f"{tree}/*.gif", "nothing", "the pattern matches no image and no video")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree: Path):
    (tree / "a[1].jpg").write_bytes(b"x")
    (tree / "a1.jpg").write_bytes(b"x")
    assert find_sources([f"{tree}/a[1].jpg"]).sources == (Source(f"{tree}/a[1].jpg"),)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("nowhere.jpg", "there is no such file or folder"),
        ("", "there is no such file or folder"),
        ("https://example.org/a.jpg", "addresses are not fetched; download the image first"),
        ("n" * 300 + ".jpg", "cannot be opened: File name too long"),
        ("nul\0.jpg", "cannot be opened: embedded null byte"),
        ("/dev/null", "is a device, pipe or socket, not a file"),
    ],
)
def test_what_names_nothing_says_so(word: str, reason: str):
    assert find_sources([word]).sources == (Source(word, "nothing", reason),)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert find_sources([str(tmp_path / "pipe.jpg")]).sources[0].kind == "nothing"


def test_an_empty_folder_says_so(tmp_path: Path):
    (source,) = find_sources([str(tmp_path)]).sources
    assert source.reason == "the folder holds no image"


def test_links_are_followed_and_a_loop_ends(tree: Path):
    (tree / "B9" / "loop").symlink_to(tree)
    (tree / "b10" / "again").symlink_to(tree / "B9" / "deep")
    assert names(find_sources([str(tree)]), tree) == [
        "2.jpg",
        "10.jpg",
        "B9/x.TIFF",
        "B9/deep/y.webp",
        "b10/1.png",
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may list every folder")
def test_a_folder_that_cannot_be_listed_is_told(tree: Path):
    (tree / "B9").chmod(0)
    try:
        last = find_sources([str(tree)]).sources[-1]
    finally:
        (tree / "B9").chmod(0o700)
    assert (last.path, last.reason) == (str(tree / "B9"), "cannot be listed: Permission denied")


def test_videos_are_known_by_name_or_content_and_counted_in_folders(tmp_path: Path):
    write_video(tmp_path / "clip.avi", frames=2)
    (tmp_path / "clip.avi").rename(tmp_path / "recording")
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "still.jpg").write_bytes(b"x")
    kinds = {name: source_of(str(tmp_path / name)).kind for name in ("recording", "broken.mp4", "empty.mp4")}
    assert kinds == {"recording": "video", "broken.mp4": "video", "empty.mp4": "picture"}
    found = find_sources([str(tmp_path)])
    assert names(found, tmp_path) == ["still.jpg"]
    assert "2 videos in it are not looked at" in found.notices[0]


@pytest.mark.parametrize(
    ("start", "video"),
    [
        (b"\0\0\0\x1cftypisom\0\0", True),
        (b"\0\0\0\x1cftypavif\0\0", False),
        (b"\0\0\0\x1cftypheic\0\0", False),
        (b"\0\0\0\x08wide\0\0\0\0", True),
        (b"\x1aE\xdf\xa3\x9fB\x86\x81", True),
        (b"RIFF\x10\0\0\0AVI LIST", True),
        (b"RIFF\x10\0\0\0WEBPVP8 ", False),
        (b"#EXTM3U\nhttps://example.org", False),
        (b"ffconcat version 1.0", False),
        (b"", False),
    ],
)
def test_content_tells_a_video(tmp_path: Path, start: bytes, video: bool):
    (tmp_path / "file").write_bytes(start)
    assert is_video(tmp_path / "file") is video


def test_a_list_keeps_its_order_and_odd_names():
    lines = b"\xef\xbb\xbfz.jpg\r\n# a note\n\n  \n./#1.jpg\na b.jpg\ncaf\xe9.jpg"
    assert read_list(io.BytesIO(lines)) == ["z.jpg", "./#1.jpg", "a b.jpg", "caf\udce9.jpg"]


def test_natural_order_survives_mixed_names():
    mixed = ["x", "10", "1x", "x1y2", "x1y10", "", "X", "9" * 40]
    assert sorted(mixed, key=natural_key) == ["", "1x", "10", "9" * 40, "X", "x", "x1y2", "x1y10"]


def test_one_video_is_counted_as_one(tmp_path: Path):
    write_video(tmp_path / "clip.mp4", frames=1)
    [notice] = find_sources([str(tmp_path)]).notices
    assert notice == f"{tmp_path}: 1 video in it is not looked at; name it, or give a pattern"


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
from apps.predict.inputs import read_frames
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
    cut.write_bytes(whole[: whole.index(b"\xff\xda") + 40])  # a little behind the first image's own start
    with pytest.raises(BadImageError):
        list(read_frames(cut, 1.0))


# What is not looked at, and lists of any kind.


def test_files_of_a_folder_that_are_not_looked_at_are_told_with_their_endings(tmp_path: Path):
    names = ("a.jpg", "1.HEIC", "2.heic", "photo", "b.jpg_large", "c.JPG.1", "e.jxl", ".hidden.jpg", "f.mp4")
    for name in (*names, ".git/z.jpg", "deep/.DS_Store", "deep/t.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_sources([str(tmp_path)])
    assert [Path(source.path).name for source in found.sources] == ["a.jpg"]
    told = "\n".join(found.notices)
    assert "3 images are in a format that is not read here" in told
    assert "2 .heic (HEIC), 1 .jxl (JPEG XL)" in told
    assert "4 files are no images by their ending" in told
    for kind in ("1 without an ending", "1 .jpg_large", "1 .1", "1 .txt"):
        assert kind in told
    assert "3 hidden names (a leading dot, or a system's own) in it are not looked at" in told
    assert "1 video in it is not looked at" in told
    assert all(notice.startswith(f"{tmp_path}: ") for notice in found.notices)
    flat = find_sources([str(tmp_path)], recursive=False)
    assert "1 hidden name (a leading dot, or a system's own) in it is not looked at" in "\n".join(
        flat.notices
    )


def test_files_that_a_pattern_passes_over_are_told(tmp_path: Path):
    for name in ("a.jpg", "b.heic"):
        (tmp_path / name).write_bytes(b"x")
    found = find_sources([f"{tmp_path}/*"])
    assert len(found.sources) == 1
    assert "1 .heic (HEIC)" in found.notices[0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_a_list_in_another_encoding_is_read(encoding: str):
    lines = "# Zoë's\r\nIMG [1].jpg\r\n\r\n写真 2.jpg and a long way to it/写真.png\r\n"
    assert read_list(io.BytesIO(lines.encode(encoding))) == [
        "IMG [1].jpg",
        "写真 2.jpg and a long way to it/写真.png",
    ]


@pytest.mark.parametrize("content", [b"\xff\xfea", b"a.jpg\0b.jpg\n", b"\xff\xfe\0\xd8a\0", b"\0\0\0\0"])
def test_a_list_that_is_no_text_is_refused(content: bytes):
    with pytest.raises(UsageError, match="UTF-8"):
        read_list(io.BytesIO(content))


def test_a_nul_in_a_name_is_a_reason():
    for word in ("a\0.jpg", "IMG [1]\0.jpg", "\0"):
        [source] = find_sources([word]).sources
        assert (source.kind, source.reason) == ("nothing", "cannot be opened: embedded null byte")


def test_a_path_written_on_windows_is_found_and_a_name_with_a_backslash_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "img").mkdir()
    for name in ("img/1.jpg", "odd\\2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    found = find_sources(["img\\1.jpg", "odd\\2.jpg", "img\\3.jpg"]).sources
    assert [(one.path, one.kind) for one in found] == [
        ("img/1.jpg", "picture"),
        ("odd\\2.jpg", "picture"),
        ("img\\3.jpg", "nothing"),
    ]
    assert [one.path for one in find_sources(["img\\"]).sources] == ["img/1.jpg"]


def test_thumbnails_of_a_storage_device_are_not_looked_at_and_told(tmp_path: Path):
    for name in ("1.jpg", "@eaDir/1.jpg/SYNO.jpg", "__MACOSX/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    found = find_sources([str(tmp_path)])
    assert [Path(one.path).name for one in found.sources] == ["1.jpg"]
    assert "2 hidden names (a leading dot, or a system's own)" in found.notices[0]

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from apps.predict.inputs import Source, find_sources, is_video, natural_key, read_list, source_of
from tests.apps.video import write_video


def names(found, root: Path) -> list[str]:
    return [os.path.relpath(source.path, root) for source in found.sources]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("10.jpg", "2.jpg", "b10/1.png", "B9/x.TIFF", "B9/deep/y.webp", ".hidden.jpg", ".git/z.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "weights.onnx").write_text("no picture")
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
    assert source == Source(f"{tree}/*.gif", "nothing", "the pattern matches no picture and no video")


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tree: Path):
    (tree / "a[1].jpg").write_bytes(b"x")
    (tree / "a1.jpg").write_bytes(b"x")
    assert find_sources([f"{tree}/a[1].jpg"]).sources == (Source(f"{tree}/a[1].jpg"),)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("nowhere.jpg", "there is no such file or folder"),
        ("", "there is no such file or folder"),
        ("https://example.org/a.jpg", "addresses are not fetched; download the picture first"),
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
    assert source.reason == "the folder holds no picture"


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

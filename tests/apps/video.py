"""Tiny videos for tests: every frame tells its number in black and white bars, and which side is up."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

WIDTH, HEIGHT = 96, 64
BITS, BAR = 6, 16
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "MJPG"}
QUARTER_TURN = (0, 0x10000, 0, -0x10000, 0, 0, HEIGHT << 16, 0, 0x40000000)  # clockwise, for players


def write_video(file: Path, *, frames: int = 35, fps: float = 10.0) -> Path:
    """Write a video whose frame n shows the bits of n as upright bars below a white stripe at its top."""
    codec = cv2.VideoWriter_fourcc(*CODECS[file.suffix])
    writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, codec, fps, (WIDTH, HEIGHT))
    for number in range(frames):
        pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for bit in range(BITS):
            pixels[:, bit * BAR : (bit + 1) * BAR] = 255 * (number >> bit & 1)
        pixels[: HEIGHT // 4] = 255
        writer.write(pixels)
    writer.release()
    return file


def frame_number(image: np.ndarray) -> int:
    """Return the number that a frame's bars tell."""
    middles = image[HEIGHT * 3 // 4, BAR // 2 :: BAR].mean(axis=1) > 127
    return int(sum(bool(on) << bit for bit, on in enumerate(middles[:BITS])))


def turn_upright_by_metadata(file: Path) -> None:
    """Write into an MP4's track header that players are to turn its frames by a quarter, clockwise."""
    data = bytearray(file.read_bytes())
    start = (
        data.index(b"tkhd") + 4 + 4 + 20 + 16
    )  # version and flags; times, track, duration; layer to volume
    assert struct.unpack(">9i", data[start : start + 36])[0] == 0x10000
    data[start : start + 36] = struct.pack(">9i", *QUARTER_TURN)
    file.write_bytes(data)

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.errors import InterruptedRunError, ResourceError
from finetune.images.decode import BadImageError, decode_image
from finetune.images.streams import guard
from finetune.images.streams.guard import DecodeProcesses, decode_guarded
from finetune.runs import interrupts
from finetune.runs.interrupts import StopRequest
from tests.finetune.pictures import smooth_picture

RGB = smooth_picture(0, 24, 18)


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(RGB).save(stream, kind, **options)
    return stream.getvalue()


DECODER = "g.decode_content = lambda *_, **__:"


def _started_with(change: str) -> str:
    """Return the program of a process with another decoder."""
    return (
        f"{guard._START.removesuffix('serve()')}import finetune.images.streams.guard as g; {change}; serve()"
    )


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecodeProcesses]:
    made = DecodeProcesses(2)
    monkeypatch.setattr(guard, "_pool", lambda: made)
    yield made
    made.close()


def test_a_slow_format_is_decoded_in_a_process_and_a_fast_one_here(
    pool: DecodeProcesses, tmp_path: Path
) -> None:
    for kind in ("WEBP", "TIFF", "JPEG2000"):
        file = tmp_path / f"a.{kind}"
        file.write_bytes(encoded(kind, lossless=True) if kind == "WEBP" else encoded(kind))
        np.testing.assert_array_equal(decode_guarded(file), RGB)
    assert len(pool._idle) == 1  # one process served all three
    pool.close()
    pool._idle.clear()
    np.testing.assert_array_equal(decode_guarded(encoded("PNG")), RGB)
    assert pool._idle == []


def test_reasons_and_notices_come_back(pool: DecodeProcesses) -> None:
    content = encoded("WEBP")
    with pytest.raises(BadImageError) as caught:
        decode_guarded(content[:-30])
    with pytest.raises(BadImageError) as plain:
        decode_image(content[:-30])
    assert str(caught.value) == str(plain.value)
    frames = {"save_all": True, "append_images": [Image.new("RGB", (18, 24), "blue")]}
    notices: list[str] = []
    decode_guarded(encoded("WEBP", **frames), notices=notices)
    assert notices == ["uploaded bytes: holds several frames; the first one is used"]


@pytest.mark.alone
@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="the system has no such limit")
def test_a_decoder_that_takes_too_long_or_too_much_is_ended_and_replaced(
    pool: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = guard._START
    loop = "sum(0 for _ in iter(int, 1))"
    monkeypatch.setattr(guard, "_START", _started_with(f"g.CPU_SECONDS = 1; {DECODER} {loop}"))
    began = time.monotonic()
    with pytest.raises(BadImageError, match="takes more than 5 s"):
        decode_guarded(encoded("WEBP"))
    assert time.monotonic() - began < 10
    monkeypatch.setattr(guard, "_START", _started_with(f"{DECODER} bytearray(700_000_000)"))
    with pytest.raises(BadImageError, match="512 MB"):
        decode_guarded(encoded("WEBP"))
    pool.end()
    monkeypatch.setattr(guard, "_START", start)
    time.sleep(0.2)
    assert decode_guarded(encoded("WEBP")).shape == RGB.shape


@pytest.mark.alone
def test_a_signal_ends_a_decoder_at_work(pool: DecodeProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_START", _started_with(f"import time; {DECODER} time.sleep(60)"))
    monkeypatch.setattr(interrupts, "_at_stop", [pool.end])
    with StopRequest() as stop:
        threading.Timer(0.7, os.kill, (os.getpid(), signal.SIGTERM)).start()
        began = time.monotonic()
        with pytest.raises(InterruptedRunError):  # nothing is known of the image: it is not called bad
            decode_guarded(encoded("WEBP"))
        assert stop.requested
    assert time.monotonic() - began < 3


# A thread that decodes when the program ends; and a process that waits for its next image.
ENDING = """
import contextlib, sys, threading, time
import finetune.images.streams.guard as guard
def decode():
    with contextlib.suppress(guard.BadImageError):
        guard.decode_guarded(image)
image = open(sys.argv[1], "rb").read()
guard.decode_guarded(image)
guard._START = guard._START.removesuffix("serve()") + (
    "import finetune.images.streams.guard as g, time;"
    "g.decode_content = lambda *_, **__: time.sleep(60); serve()"
)
guard._pool()._idle.clear()
threading.Thread(target=decode, daemon=True).start()
time.sleep(0.5)
print(len(guard._pool()._busy), time.time(), flush=True)
"""


@pytest.mark.alone
def test_the_end_of_the_interpreter_waits_for_no_decoder(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(encoded("WEBP"))
    program = [sys.executable, "-c", ENDING, str(tmp_path / "a.webp")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    busy, at = done.stdout.split()
    assert busy == "1"
    assert time.time() - float(at) < 10


def test_a_process_that_was_killed_is_no_fault_of_the_image(
    pool: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = guard._ask

    def killed_once(process: subprocess.Popen[bytes], content: bytes) -> tuple[dict[str, Any], np.ndarray]:
        monkeypatch.setattr(guard, "_ask", ask)
        process.kill()
        process.wait()
        return ask(process, content)

    monkeypatch.setattr(guard, "_ask", killed_once)
    np.testing.assert_array_equal(decode_guarded(encoded("TIFF")), RGB)


def test_an_image_that_ends_every_process_is_refused(
    pool: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_START", _started_with(f"import os; {DECODER} os.kill(os.getpid(), 11)"))
    with pytest.raises(BadImageError, match="by a fault, twice"):
        decode_guarded(encoded("WEBP"))


def test_a_process_that_cannot_start_is_no_fault_of_the_image(
    pool: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "_START", "raise MemoryError")
    with pytest.raises(ResourceError, match=r"did not start.*ulimit -v"):
        decode_guarded(encoded("WEBP"))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system has no such limit")
def test_decoders_work_within_the_limits_of_a_user(
    pool: DecodeProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = (
        "import resource as r; now = 4096 * int(open('/proc/self/statm').read().split()[0]); "
        "r.setrlimit(r.RLIMIT_AS, 2 * (now + 200_000_000,)); r.setrlimit(r.RLIMIT_CPU, (4, 4))"
    )
    start = guard._START.removesuffix("serve()")
    monkeypatch.setattr(guard, "_START", f"{start}{limits}; serve()")
    np.testing.assert_array_equal(decode_guarded(encoded("TIFF")), RGB)

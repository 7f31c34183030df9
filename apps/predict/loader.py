"""Images decoded and made ready by threads that run ahead of whoever looks at them, in the order given.

What waits is what `work` made of an image (a few small crops), never the image itself: at most one large
image per thread is held at a time, however long the list or the video is.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np

from apps.predict.inputs import Source, check_fps, read_frames, source_of
from finetune.errors import DataError
from finetune.images.decode import BadImageError
from finetune.images.streams.guard import decode_guarded

T = TypeVar("T")
Picture = Source | Path | str | bytes | np.ndarray
POLL_SECONDS = 0.1
DESCRIBED = {bytes: "uploaded bytes", np.ndarray: "pixels"}


@dataclass(frozen=True)
class Seen(Generic[T]):
    """What came of one image, or of one frame of a video.

    Args:
        index: place of its source in the list, from 0.
        path: of the source; what it is where it has none.
        value: what `work` returned; None for an image that cannot be used.
        reason: why it cannot be used; empty otherwise.
        time: of a frame, in seconds.
        notices: what the decoder has to say about an image that it could read.
    """

    index: int
    path: str
    value: T | None = None
    reason: str = ""
    time: float | None = None
    notices: tuple[str, ...] = ()


def stream_pictures(
    pictures: Iterable[Picture],
    work: Callable[[np.ndarray], T],
    *,
    workers: int,
    ahead: int,
    fps: float = 1.0,
) -> Generator[Seen[T], None, None]:
    """Yield what `work` makes of every image, uint8 (H, W, 3) RGB, in the order of `pictures`.

    Args:
        pictures: sources, files, the bytes of files, or pixels.
        work: called in one of the threads; what it returns should be small, for it may wait.
        workers: threads that decode and work.
        ahead: results that may wait.
        fps: frames of a video to look at, per second of it.

    An image that cannot be decoded, or that `work` refuses with a DataError, is yielded with its reason; any
    other error of `work` ends the stream. A video yields its frames, then a reason where it is damaged.
    Closing the stream ends its threads. OpenCV's own threads rest meanwhile: they would fight with these.
    """
    check_fps(fps)
    lane = _Lane(work, workers, ahead, fps)
    feeder = threading.Thread(target=lane.feed, args=(iter(pictures),), name="crl-feeder", daemon=True)
    opencv_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    feeder.start()
    try:
        while (future := lane.waiting.get()) is not None:
            yield future.result()
    finally:
        lane.stop()
        feeder.join()
        cv2.setNumThreads(opencv_threads)


class _Lane(Generic[T]):
    """The queue between the feeder, which walks through the list, and the one who reads the stream."""

    def __init__(self, work: Callable[[np.ndarray], T], workers: int, ahead: int, fps: float) -> None:
        self.waiting: queue.Queue[Future[Seen[T]] | None] = queue.Queue(max(1, ahead))
        self._work = work
        self._fps = fps
        self._pool = ThreadPoolExecutor(max(1, workers), "crl-decode")
        self._frames = threading.Semaphore(max(1, workers) + 1)  # frames are large: few may wait for a thread
        self._stopped = threading.Event()

    def feed(self, pictures: Iterator[Picture]) -> None:
        """Hand every image to the threads; an error of the list itself reaches the reader."""
        try:
            for index, picture in enumerate(pictures):
                self._feed_one(index, _named(picture))
                if self._stopped.is_set():
                    break
        except Exception as error:  # told by the reader's side, with its trace
            failed: Future[Seen[T]] = Future()
            failed.set_exception(error)
            self._put(failed)
        self._put(None)

    def stop(self) -> None:
        """End the threads; what nobody has begun is dropped."""
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _feed_one(self, index: int, picture: Source | bytes | np.ndarray) -> None:
        if not isinstance(picture, Source):
            name = DESCRIBED[type(picture)]
            self._put(self._pool.submit(self._from_picture, index, name, picture))
        elif picture.kind == "nothing":
            self._put_done(Seen(index, picture.path, reason=picture.reason))
        elif picture.kind == "video":
            self._feed_video(index, picture.path)
        else:
            self._put(self._pool.submit(self._from_picture, index, picture.path, Path(picture.path)))

    def _feed_video(self, index: int, path: str) -> None:
        try:
            for frame in read_frames(Path(path), self._fps):
                while not self._frames.acquire(timeout=POLL_SECONDS):
                    if self._stopped.is_set():
                        return
                if self._stopped.is_set():
                    return
                self._put(self._pool.submit(self._from_frame, index, path, frame.time, frame.image))
        except BadImageError as error:
            self._put_done(Seen(index, path, reason=error.reason))

    def _from_picture(self, index: int, name: str, picture: Path | bytes | np.ndarray) -> Seen[T]:
        notices: list[str] = []
        try:
            pixels = picture if isinstance(picture, np.ndarray) else decode_guarded(picture, notices=notices)
            return Seen(index, name, self._work(pixels), notices=tuple(notices))
        except DataError as error:
            return Seen(index, name, reason=_reason(error))

    def _from_frame(self, index: int, path: str, time: float, pixels: np.ndarray) -> Seen[T]:
        try:
            return Seen(index, path, self._work(pixels), time=time)
        except DataError as error:
            return Seen(index, path, reason=_reason(error), time=time)
        finally:
            self._frames.release()

    def _put_done(self, seen: Seen[T]) -> None:
        done: Future[Seen[T]] = Future()
        done.set_result(seen)
        self._put(done)

    def _put(self, item: Future[Seen[T]] | None) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.waiting.put(item, timeout=POLL_SECONDS)
                return


def _named(picture: Picture) -> Source | bytes | np.ndarray:
    return source_of(str(picture)) if isinstance(picture, Path | str) else picture


def _reason(error: DataError) -> str:
    return error.reason if isinstance(error, BadImageError) else str(error)

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import apps.runtime.endable
from apps.runtime.endable import run_endable
from apps.runtime.session import load_runtime
from finetune.errors import InterruptedRunError
from finetune.runs import interrupts
from finetune.runs.interrupts import StopRequest

SIDE, PRODUCTS = 1200, 240  # 400 billion multiply-adds: seconds of the fastest core


@pytest.fixture(scope="module")
def long_session() -> Any:
    weight = numpy_helper.from_array(np.eye(SIDE, dtype=np.float32), "w")
    names = [f"v{place}" for place in range(PRODUCTS + 1)]
    nodes = [helper.make_node("MatMul", [names[i], "w"], [names[i + 1]]) for i in range(PRODUCTS)]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [SIDE, SIDE]) for name in (names[0], names[-1])
    ]
    graph = helper.make_graph(nodes, "long", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: Any) -> Any:
    feed = {"v0": np.ones((SIDE, SIDE), np.float32)}
    return run_endable(session, load_runtime().RunOptions(), [f"v{PRODUCTS}"], feed)[0]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_at_stop", [])
    monkeypatch.setattr(apps.runtime.endable, "_watched", [])


@pytest.mark.alone
def test_ctrl_c_ends_a_run_of_the_main_thread_within_a_second(long_session: Any) -> None:
    start = time.monotonic()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        run(long_session)
    assert time.monotonic() - start < 1.2


@pytest.mark.alone
@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_request_ends_runs_of_every_thread(
    long_session: Any, number: signal.Signals, beside: bool
) -> None:
    start = time.monotonic()
    threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
    with StopRequest() as stop, ThreadPoolExecutor(1) as pool:
        call: Callable[[], Any] = partial(run, long_session)
        call = pool.submit(call).result if beside else call
        with pytest.raises(InterruptedRunError, match="stopped by a signal"):
            call()
        assert stop.requested
    assert time.monotonic() - start < 0.2 + 0.5 + 1
    assert apps.runtime.endable._at_work == []


class Session:
    """Stands in for the runtime's: answers with its inputs, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.threads: list[threading.Thread] = []

    def run(self, names: list[str], feed: dict[str, int], options: object) -> list[int]:
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return [feed[name] for name in names]


class Options:
    terminate = False


def test_answers_and_errors_come_through_and_a_thread_of_the_pool_runs_itself() -> None:
    session = Session()
    assert run_endable(session, Options(), ["b", "a"], {"a": 1, "b": 2}) == [2, 1]
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run_endable, session, Options(), ["a"], {"a": 1}).result() == [1]
        own = pool.submit(threading.current_thread).result()
    assert session.threads[0] is not threading.main_thread()
    assert session.threads[1] is own
    with pytest.raises(ZeroDivisionError):
        run_endable(Session(ZeroDivisionError()), Options(), [], {})

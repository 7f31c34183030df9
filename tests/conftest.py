"""What every test may lean on: one thread, no network, its turn, and the real data where it is."""

from __future__ import annotations

import atexit
import gc
import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from finetune.seeding import seed_torch
from tests.parallel import Turns, at_hand, common_folder, shuffled
from tests.skips import Skips, on_ci, read_patterns

os.environ.setdefault("OMP_NUM_THREADS", "1")
if os.environ.get("CRL_TEST_GPU") != "1":  # expected numbers are the CPU's
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

os.fsync = lambda handle: (
    None
)  # only a power cut would show it, and waiting for the disk took a tenth of the time

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that shows whether tests depend on their order."""
    parser.addoption("--shuffle", type=int, metavar="SEED", help="shuffle the files, and the tests in each")


def pytest_configure(config: pytest.Config) -> None:
    """Watch over skips where results are gathered."""
    if on_ci() and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Skips(read_patterns()), "skips")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let tests take turns with those of other workers; a plugin, so that doctests take theirs too."""
    factory = session.config._tmp_path_factory  # type: ignore[attr-defined]  # what the fixture returns
    os.environ["CRL_CACHE"] = str(common_folder(factory) / "user-cache")  # the user's own stays as it is
    session.config.pluginmanager.register(Turns(common_folder(factory)), "turns")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector from what collection makes: a million objects that all stay to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        atexit.register(gc.unfreeze)  # the interpreter ends in order; pytest's own last collection is short


@pytest.hookimpl(wrapper=True)  # around pytest's own sorting, which keeps the users of one fixture together
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Put the tests into the order that was asked for; those alone come last, where they wait for few."""
    seed = config.getoption("--shuffle")
    if seed is not None:
        items[:] = shuffled(items, seed)
    yield
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many workers `-n auto` starts."""
    return at_hand()


@pytest.fixture(autouse=True)
def same_dice() -> None:
    """Let a test draw the same random numbers whatever ran before it; torch is not imported for this."""
    random.seed(0)
    np.random.seed(0)
    if "torch" in sys.modules:
        seed_torch(0)


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Reports without figures, which take most of a tiny run's time; other files test how they are drawn."""
    from tests.finetune.experiments.tiny_tasks import leave_out_pictures

    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        yield


@pytest.fixture
def as_in_a_terminal() -> Iterator[None]:
    """Meet SIGINT and SIGHUP as a terminal's program does: a shell's background job and nohup ignore them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, fold files and weights; the test is skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data folder {folder.name!r} beside the repository")
    return folder


@pytest.fixture(scope="session")
def real_counts() -> Path:
    """The published counts of Adience's fold files."""
    file = SHARED / "specs" / "adience_counts.json"
    if not file.is_file():
        pytest.skip("needs adience_counts.json beside the repository")
    return file

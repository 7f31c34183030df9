"""What auto measures, remembers and chooses; and that a training never notices it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from finetune.experiments.records.record import recorded_format, training_facts
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.learner import workload
from finetune.training.optimization import measuring
from finetune.training.optimization.measuring import (
    LONGEST_STEP,
    Workload,
    choose_format,
    time_formats,
    training_precision,
)
from finetune.training.optimization.precision import Choice, chosen_before
from tests.finetune.quick import STEPS, break_off, last, quick, train, trained_hash
from tests.finetune.training.optimization.test_precision import pretend_cuda

AUTO = quick(run_precision="auto")
HALF_AS_LONG = {"float32": 0.25, "bfloat16": 0.125}  # exact in binary


class Steps:
    """Steps of a training whose formats take the seconds that they are given, and the clock beside them."""

    def __init__(self, patch: pytest.MonkeyPatch, seconds: dict[str, float]) -> None:
        self.seconds, self.now, self.done = seconds, 0.0, list[str]()
        plain = measuring.training_step

        def timed(*given: Any) -> Callable[[], None]:
            step, name = plain(*given), given[3].dtype_name

            def inside() -> None:
                step()
                self.take(name)

            return inside

        patch.setattr(measuring, "training_step", timed)
        patch.setattr(measuring, "clock_of", lambda device: self.clock)
        patch.setattr(measuring, "FEW_STEPS", 1)
        patch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "A CPU", "avx512_bf16": True})

    def take(self, name: str) -> None:
        self.now += self.seconds[name]
        self.done.append(name)

    def clock(self) -> float:
        return self.now

    def step_of(self, name: str, _images: int) -> Callable[[], None]:
        return lambda: self.take(name)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache folder of the test's own."""
    monkeypatch.setenv("CRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "crl-toolkit" / "precision"


def work_of(task: TrainingData, config: FitConfig = AUTO, steps: int = 1000) -> Workload:
    return workload(config, task.manifest.num_classes, task.spec, steps)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"float32": 0.2, "bfloat16": 0.1}, "bfloat16"),
        ({"float32": 0.1, "bfloat16": 0.2}, "float32"),
        ({"float32": 0.1099, "bfloat16": 0.1}, "float32"),  # within 10 %
        ({"float32": 0.111, "bfloat16": 0.1}, "bfloat16"),
    ],
)
def test_the_faster_format_is_chosen_where_it_gains_a_tenth(
    task: TrainingData, monkeypatch, own_cache: Path, seconds: dict[str, float], expected: str
):
    steps = Steps(monkeypatch, seconds)
    choice = choose_format("cpu", work_of(task))
    assert (choice.name, choice.seconds, choice.images) == (expected, pytest.approx(seconds), 8)
    assert not choice.remembered
    told = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    assert choice.reason == f"measured: {told} a step of 8"
    assert steps.done.count("bfloat16") in (3, 4)  # one to warm up, two that are timed, or three


def test_formats_take_turns_and_the_fastest_step_counts():
    done, now = [], [0.0]
    slower = iter([9.0, 9.0, 0.3, 0.2, 0.2, 0.3, 0.3, 0.3])  # two to warm up, then pairs

    def step_of(name: str, images: int) -> Callable[[], None]:
        def step() -> None:
            done.append((name, images))
            now[0] += next(slower)

        return step

    found = time_formats(("float32", "bfloat16"), step_of, 32, lambda: now[0], shorten=False)
    assert found == (pytest.approx({"float32": 0.2, "bfloat16": 0.2}), 32)
    assert done == [("float32", 32), ("bfloat16", 32)] * 4


def test_long_steps_are_timed_with_fewer_images():
    now = [0.0]

    def step_of(_name: str, images: int) -> Callable[[], None]:
        def step() -> None:
            now[0] += 0.05 * images

        return step

    best, images = time_formats(("float32",), step_of, 64, lambda: now[0])
    assert (images, best["float32"]) == (8, pytest.approx(LONGEST_STEP))
    assert now[0] < 3


def test_a_format_without_memory_is_left_out():
    def step_of(name: str, _images: int) -> Callable[[], None]:
        def step() -> None:
            if name == "float32":
                raise torch.OutOfMemoryError("CUDA out of memory")

        return step

    assert list(time_formats(("float32", "bfloat16"), step_of, 8, lambda: 0.0, shorten=False)[0]) == [
        "bfloat16"
    ]


@pytest.mark.parametrize(
    ("bfloat16", "seconds", "expected"),
    [
        (True, {"float32": 4.0, "tf32": 1.3, "bfloat16": 1.0}, "bfloat16"),
        (True, {"float32": 4.0, "tf32": 1.05, "bfloat16": 1.0}, "tf32"),
        (True, {"float32": 1.0, "tf32": 1.0, "bfloat16": 1.4}, "float32"),
        (False, {"float32": 3.0, "float16": 1.0}, "float16"),
    ],
)
def test_a_gpu_chooses_among_its_own_formats(
    task: TrainingData, monkeypatch, own_cache: Path, bfloat16: bool, seconds: dict[str, float], expected: str
):
    pretend_cuda(monkeypatch, bfloat16=bfloat16)
    steps = Steps(monkeypatch, seconds)
    monkeypatch.setattr(measuring, "prepare_torch", lambda *_, **__: None)  # there is no GPU to prepare
    monkeypatch.setattr(
        measuring,
        "_measure",
        lambda _device, work, names, clock: time_formats(names, steps.step_of, work.batch, clock),
    )
    choice = choose_format("cuda", work_of(task))
    assert (choice.name, choice.seconds) == (expected, pytest.approx(seconds))


def test_what_was_measured_is_remembered_by_all_that_it_depends_on(
    task: TrainingData, monkeypatch, own_cache: Path
):
    steps = Steps(monkeypatch, HALF_AS_LONG)
    first = choose_format("cpu", work_of(task))
    steps.done.clear()
    again = choose_format("cpu", work_of(task, steps=1))  # however few
    assert again == replace(
        first, remembered=True, reason=first.reason.replace("measured", "measured earlier")
    )
    assert not steps.done
    for other in (
        quick(run_precision="auto", train_batch_size=4),
        quick(run_precision="auto", model_drop_rate=0.1),
    ):
        steps.done.clear()
        choose_format("cpu", work_of(task, other))
        assert steps.done
    assert len(list(own_cache.iterdir())) == 3


def test_a_damaged_memory_is_measured_anew(task: TrainingData, monkeypatch, own_cache: Path):
    steps = Steps(monkeypatch, HALF_AS_LONG)
    first = choose_format("cpu", work_of(task))
    file = next(own_cache.iterdir())
    whole = file.read_text(encoding="utf-8")
    for damaged in (
        "{",
        "[]",
        whole.replace("0.125", "NaN"),
        whole.replace('"seconds"', '"minutes"'),
        whole.replace("test_resnet", "test_vit"),
    ):
        file.write_text(damaged, encoding="utf-8")
        steps.done.clear()
        assert choose_format("cpu", work_of(task)) == first
        assert steps.done, damaged
        assert json.loads(file.read_text(encoding="utf-8"))["seconds"] == HALF_AS_LONG


def test_a_place_that_cannot_be_written_to_is_no_error(task: TrainingData, monkeypatch, tmp_path: Path):
    Steps(monkeypatch, HALF_AS_LONG)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CRL_CACHE", str(tmp_path / "file"))
    assert choose_format("cpu", work_of(task)).name == "bfloat16"


def test_few_steps_and_plain_processors_measure_nothing(task: TrainingData, monkeypatch, own_cache: Path):
    steps = Steps(monkeypatch, HALF_AS_LONG)
    few = choose_format("cpu", work_of(task, steps=0))  # frozen features
    assert (few.name, few.reason) == ("float32", "0 steps are too few to measure which format is fastest")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    plain = choose_format("cpu", work_of(task))
    assert (plain.name, plain.reason) == ("float32", "no fast half precision on this cpu")
    assert not steps.done
    assert not own_cache.exists()


def test_a_measured_format_trains_the_weights_that_the_same_by_name_does(
    task: TrainingData, monkeypatch, own_cache: Path, tmp_path: Path, capsys
):
    named = train(task, tmp_path / "named", quick(run_precision="bfloat16", train_epochs=1))
    Steps(monkeypatch, HALF_AS_LONG)
    state = torch.get_rng_state()
    choose_format("cpu", work_of(task))
    assert torch.equal(torch.get_rng_state(), state)
    next(own_cache.iterdir()).unlink()
    measured = train(task, tmp_path / "measured", quick(run_precision="auto", train_epochs=1))
    assert trained_hash(measured) == trained_hash(named)
    told = "bfloat16, channels last: measured: float32 0.25 s, bfloat16 0.125 s a step of 8"
    assert told in capsys.readouterr().out
    facts = training_facts(AUTO, measured.learner)
    assert told in facts["precision"]
    assert recorded_format(facts) == "bfloat16"
    kept = facts["precision_choice"]
    assert (kept["name"], kept["seconds"], kept["remembered"]) == (
        "bfloat16",
        pytest.approx(HALF_AS_LONG),
        False,
    )
    assert "precision_choice" not in training_facts(AUTO, named.learner)


def test_a_resumed_run_keeps_its_format_whatever_is_remembered_now(
    task: TrainingData, monkeypatch, own_cache: Path, tmp_path: Path
):
    config = quick(run_precision="auto", train_epochs=1)
    named = train(task, tmp_path / "named", quick(run_precision="bfloat16", train_epochs=1))
    steps = Steps(monkeypatch, HALF_AS_LONG)
    break_off(task, tmp_path / "run", config, STEPS - 2)
    assert last(tmp_path / "run")["precision"]["name"] == "bfloat16"
    file = next(own_cache.iterdir())
    file.write_text(file.read_text(encoding="utf-8").replace("0.25", "0.02"), encoding="utf-8")
    assert choose_format("cpu", work_of(task)).name == "float32"
    steps.done.clear()
    resumed = train(task, tmp_path / "run", config)
    assert trained_hash(resumed) == trained_hash(named)
    assert "measured: float32 0.25 s, bfloat16 0.125 s" in resumed.learner.precision.reason
    assert not steps.done


def test_the_checkpoint_of_an_earlier_version_names_its_format(task: TrainingData, monkeypatch):
    begun = chosen_before({"device": "AMD EPYC, 2nd, bfloat16", "precision": None})
    assert begun == Choice("bfloat16", "as this training began")
    assert chosen_before({"device": "AMD EPYC"}) is None
    steps = Steps(monkeypatch, {"float32": math.nan, "bfloat16": math.nan})
    found = training_precision(work_of(task), measuring.World(), begun)
    assert (found.dtype_name, found.reason, steps.done) == ("bfloat16", "as this training began", [])


def test_a_format_that_the_device_has_not_is_chosen_anew(task: TrainingData, monkeypatch, own_cache: Path):
    Steps(monkeypatch, HALF_AS_LONG)
    found = training_precision(work_of(task), measuring.World(), Choice("float16", "began on a GPU"))
    assert found.dtype_name == "bfloat16"

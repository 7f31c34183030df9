"""Each check passes on a sound device, and is wrong, with the right remedy, where a fault is put in."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apps.doctor.gpu.bounds import PEAK, RING_IMAGES
from apps.doctor.gpu.checks import (
    heads,
    losses,
    memory,
    ranks,
    repeat,
    resume,
    scores,
    serving,
    speed,
    traffic,
)
from apps.doctor.gpu.checks.machine import check_machine
from apps.doctor.gpu.checks.speed import Speed
from apps.doctor.gpu.checks.traffic import HostCopies
from apps.doctor.gpu.outcome import Findings
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.training import recipe
from apps.runtime.session import CPU, CUDA
from core_losses import LOSSES
from finetune.cli.console import silently
from finetune.errors import ResourceError
from finetune.seeding import torch_left_as_it_was
from finetune.training.loop import LossWatch
from finetune.training.optimization.precision import choose_precision
from tests.apps.doctor.gpu.fake_card import FakeCard, is_wrong, setup_in

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _quietly():
    with silently(), torch_left_as_it_was():
        yield


@pytest.fixture
def card() -> FakeCard:
    return FakeCard()


@pytest.fixture
def setup(tmp_path: Path, card: FakeCard) -> Setup:
    return setup_in(tmp_path, card)


def test_a_sound_machine_is_told_with_its_numbers(setup: Setup):
    outcome = check_machine(setup)
    assert outcome.status == "ok"
    assert "capability 9.0, driver 580.65" in outcome.found
    assert outcome.numbers["free_bytes"] == 12e9


def test_two_processes_would_take_the_same_number_format():
    wanted = recipe("test_resnet", 32, "cpu", precision="auto").run.precision
    assert wanted == choose_precision("cpu").dtype_name != "auto"


def test_a_machine_that_cannot_train_is_wrong(setup: Setup, card: FakeCard):
    card.reason = "torch has no kernels for it"
    assert is_wrong(check_machine(setup), found="no kernels", repair="install the torch build")
    card.reason, card.answer = None, torch.full((8, 8), 3.0)
    assert is_wrong(check_machine(setup), found="product of ones is wrong", repair="update the NVIDIA driver")
    card.answer, card.shared = None, RING_IMAGES
    assert is_wrong(check_machine(setup), found="shared memory", repair="--shm-size 1g")


def test_a_machine_that_could_be_better_is_a_note(setup: Setup, card: FakeCard):
    card.free, card.has_compiler = 10**9, False
    outcome = check_machine(setup)
    assert outcome.status == "note"
    assert "only 1.0 GB" in outcome.found
    assert "torch.compile lacks a C compiler;" in outcome.found
    assert "--run.compile off" in outcome.repair


def test_losses_are_within_their_bounds(setup: Setup):
    outcome = losses.check_losses(setup)
    assert outcome.status == "ok", outcome.found
    assert len(outcome.numbers["errors"]) == 4 * 9 + 2


@pytest.mark.parametrize("place", [0, 1])
def test_a_loss_that_is_off_is_wrong(setup: Setup, monkeypatch: Patch, place: int):
    plain = losses.run_loss

    def off(loss: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        made = list(plain(loss, logits, target))
        if logits.dtype == torch.float32:  # what is right is computed in float64
            made[place] = made[place] * (1 + 1e-5)
        return made[0], made[1]

    monkeypatch.setattr(losses, "run_loss", off)
    assert is_wrong(losses.check_losses(setup), found="crl, smoothed: relative error", repair="--device cpu")


def test_a_loss_that_is_no_number_is_wrong(setup: Setup, monkeypatch: Patch):
    plain = losses.run_loss
    monkeypatch.setattr(
        losses, "run_loss", lambda loss, *given: (plain(loss, *given)[0], plain(loss, *given)[1] * math.nan)
    )
    assert is_wrong(losses.check_losses(setup), found="inf of its gradient", repair="--device cpu")


def test_a_loss_of_half_logits_that_differs_is_wrong(setup: Setup, monkeypatch: Patch):
    plain = losses.run_loss

    def rounded(loss: Any, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = plain(loss, logits, target)
        return (value.bfloat16() if logits.dtype == torch.bfloat16 else value), slope

    monkeypatch.setattr(losses, "run_loss", rounded)
    assert is_wrong(losses.check_losses(setup), found="bfloat16 logits give another loss", repair="send")


def test_what_does_not_compile_is_a_note(setup: Setup, card: FakeCard, monkeypatch: Patch):
    assert losses.check_compiled_losses(setup).numbers["compiles"] is True
    found = losses.check_compiled_losses(setup)
    count = len(LOSSES)
    assert (len(found.numbers["errors"]), f"{count} of {count} losses" in found.found) == (count, True)
    monkeypatch.setattr(losses, "COMPILING", 0.0)
    assert f"1 of {count} losses compile" in losses.check_compiled_losses(setup).found

    def broken(_function: Any) -> Any:
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(card, "compiled", broken)
    outcome = losses.check_compiled_losses(setup)
    assert (outcome.status, outcome.numbers["compiles"]) == ("note", False)
    assert "Failed to find C compiler" in outcome.found
    assert "compile off" in outcome.repair


@pytest.fixture
def one_head(monkeypatch: Patch) -> None:
    monkeypatch.setattr(heads, "head_names", lambda: ["linear"])


def test_a_head_passes(setup: Setup, one_head: None):
    outcome = heads.check_heads(setup)
    assert outcome.status == "ok", outcome.found
    assert outcome.numbers["linear"]["bfloat16"]["cosine"] > 0.99


@pytest.mark.parametrize(
    ("fault", "found", "repair"),
    [
        ("loss", "linear: loss off by 1.0e-04", "--device cpu"),
        ("head", "gradient of head.classifier", "--device cpu"),
        ("trunk", "trunk's cosine -1.0000", "--device cpu"),
        ("half", "linear in bfloat16: not finite", "--run.precision float32"),
    ],
)
def test_a_head_whose_step_is_off_is_wrong(
    setup: Setup, one_head: None, monkeypatch: Patch, fault: str, found: str, repair: str
):
    plain, calls = heads.head_step, []

    def off(*given: Any) -> heads.Step:
        step = plain(*given)
        calls.append(given)
        if len(calls) == 2 and fault == "loss":  # the first is the processor's
            return step._replace(loss=step.loss * 1.0001)
        if len(calls) == 2 and fault in ("head", "trunk"):
            sign = 1.01 if fault == "head" else -1
            return step._replace(
                **{fault: {name: sign * value for name, value in getattr(step, fault).items()}}
            )
        return step._replace(loss=math.nan) if len(calls) == 3 and fault == "half" else step

    monkeypatch.setattr(heads, "head_step", off)
    assert is_wrong(heads.check_heads(setup), found=found, repair=repair)


def test_a_gradient_that_is_missing_or_no_number_is_infinitely_off():
    right = {"a": torch.ones(2), "b": torch.ones(2)}
    assert heads.largest_error({"a": torch.ones(2)}, right) == (math.inf, "b")
    assert heads.largest_error({**right, "b": torch.tensor([1.0, math.nan])}, right) == (math.inf, "b")
    assert heads.largest_error({**right, "a": torch.tensor([1.0, 2.0])}, right) == (
        pytest.approx(0.5**0.5),
        "a",
    )


def rounding(monkeypatch: Patch, **error: float) -> None:
    """Let logits on the device be off by this much of their range, in float32 or TF32."""
    plain, calls = scores.logits_of, []

    def off(core: nn.Module, images: Tensor, precision: Any) -> Tensor:
        logits = plain(core, images, precision)  # type: ignore[arg-type]
        calls.append(precision)
        share = error["tf32" if precision.tf32 else "float32"] if len(calls) > 1 else 0.0
        return logits + share * (logits.max() - logits.min())

    monkeypatch.setattr(scores, "logits_of", off)


def test_scores_in_float32_pass_where_tf32_is_coarser(setup: Setup, card: FakeCard, monkeypatch: Patch):
    card.has_tf32 = True
    rounding(monkeypatch, float32=1e-6, tf32=1e-3)
    outcome = scores.check_scores(setup)
    assert outcome.status == "ok", outcome.found
    assert "off by 1.0e-06 of the logits' range; TF32 by 1.0e-03" in outcome.found


def test_a_switch_without_effect_is_wrong(setup: Setup, card: FakeCard, monkeypatch: Patch):
    card.has_tf32 = True
    rounding(monkeypatch, float32=1e-6, tf32=1e-6)
    assert is_wrong(
        scores.check_scores(setup), found="switch between them has no effect", repair="NVIDIA_TF32"
    )
    rounding(monkeypatch, float32=1e-3, tf32=2e-3)
    assert is_wrong(scores.check_scores(setup), found="further from the processor's", repair="--device cpu")


def test_a_hash_that_changes_is_wrong(setup: Setup, monkeypatch: Patch):
    one = {"linear": {"hash": "a" * 64, "warnings": []}, "DCL": {"hash": "b" * 64, "warnings": []}}
    monkeypatch.setattr(repeat, "run_twice", lambda _setup: (one, one))
    assert repeat.check_repeat(setup).status == "ok"
    monkeypatch.setattr(
        repeat, "run_twice", lambda _setup: (one, {**one, "DCL": {"hash": "c", "warnings": []}})
    )
    assert is_wrong(
        repeat.check_repeat(setup), found="DCL: two processes end in different", repair="repeated"
    )
    warned = {**one, "DCL": {"hash": "b" * 64, "warnings": ["x has no deterministic implementation"]}}
    monkeypatch.setattr(repeat, "run_twice", lambda _setup: (one, warned))
    outcome = repeat.check_repeat(setup)
    assert (outcome.status, "DCL: x has no" in outcome.found) == ("note", True)


def ended_in(setup: Setup, monkeypatch: Patch, **hashes: str) -> None:
    """Let the runs of the check for resuming end in these weights."""

    def start(work: str, _folder: str, run: str) -> Any:
        Path(run).mkdir(exist_ok=True)
        (Path(run) / "hash").write_text(hashes.get(Path(run).name, "f" * 64))

    monkeypatch.setattr(Setup, "start", lambda _setup, *words: start(*words))
    monkeypatch.setattr(Setup, "finish", lambda _setup, processes: None)
    monkeypatch.setattr(resume, "kill_inside", lambda *given: None)
    monkeypatch.setattr(resume, "task_for", lambda *given, **named: None)


def test_a_resumed_run_of_other_weights_is_wrong(setup: Setup, monkeypatch: Patch):
    ended_in(setup, monkeypatch)
    assert resume.check_resume(setup).status == "ok"
    ended_in(setup, monkeypatch, **{"general-cut": "e" * 64})
    outcome = resume.check_resume(setup)
    assert is_wrong(outcome, found="a general run: the resumed run ends", repair="from the beginning")


def test_a_run_is_killed_after_its_third_checkpoint(setup: Setup, tmp_path: Path):
    class Running:
        """A process that writes a checkpoint whenever it is looked at."""

        saves, killed = 0, False

        def poll(self) -> None:
            self.saves += 1
            (tmp_path / "new").write_text("x")
            (tmp_path / "new").replace(tmp_path / "last.ckpt")
            os.utime(tmp_path / "last.ckpt", ns=(self.saves, self.saves))

        def kill(self) -> None:
            self.killed = True

        def wait(self) -> None:
            pass

    running = Running()
    resume.kill_inside(running, tmp_path, lambda run: [run / "last.ckpt"], setup)  # type: ignore[arg-type]
    assert (running.killed, running.saves) == (True, resume.SAVES)


def test_a_run_that_ends_before_it_is_killed_is_told(setup: Setup, tmp_path: Path, monkeypatch: Patch):
    monkeypatch.setattr(Setup, "last_words", lambda _setup, process: "ModuleNotFoundError")
    ended: Any = SimpleNamespace(poll=lambda: 1)
    with pytest.raises(ResourceError, match="ended before it could be killed: ModuleNotFoundError"):
        resume.kill_inside(ended, tmp_path, lambda run: [], setup)


def ranks_of(monkeypatch: Patch, *together: Tensor, met: int = 3) -> None:
    """Let one process alone end in ones, and the others in these weights."""
    answers = [{"weights": {"w": value}, "met": met, "windows": 3} for value in (torch.ones(4), *together)]
    monkeypatch.setattr(ranks, "run_ranks", lambda _setup, _backend: (answers[0], answers[1:]))


def test_processes_that_differ_are_wrong(setup: Setup, monkeypatch: Patch):
    ranks_of(monkeypatch, torch.ones(4), torch.ones(4))
    assert ranks.check_ranks(setup).status == "ok"
    ranks_of(monkeypatch, torch.ones(4), torch.ones(4) + 1e-6)
    assert is_wrong(ranks.check_ranks(setup), found="hold different weights", repair="in one process")
    ranks_of(monkeypatch, 1.001 * torch.ones(4), 1.001 * torch.ones(4))
    assert is_wrong(ranks.check_ranks(setup), found="off from one process by 1.0e-03", repair="one process")
    ranks_of(monkeypatch, torch.ones(4), torch.ones(4), met=6)
    assert (ranks.check_ranks(setup).status, "6 times in 3" in ranks.check_ranks(setup).found) == (
        "note",
        True,
    )


def test_nccl_is_tried_where_there_are_two_gpus(setup: Setup, card: FakeCard, monkeypatch: Patch):
    card.count = 2
    ranks_of(monkeypatch, torch.ones(4), torch.ones(4))
    assert "two NCCL processes on two GPUs: equal weights" in ranks.check_ranks(setup).found


@pytest.fixture
def without_watch(monkeypatch: Patch) -> None:
    """The loss watch looks once in 20 steps on a GPU, and at every step on the CPU."""
    monkeypatch.setattr(LossWatch, "look", lambda watch: watch.recent.clear())
    monkeypatch.setattr(traffic, "CASES", {"linear": {}})


def test_steps_that_never_wait_pass(setup: Setup, without_watch: None):
    outcome = traffic.check_traffic(setup)
    assert outcome.status == "ok", outcome.found
    assert set(outcome.numbers) == {"linear", "general"}


def test_a_step_that_waits_is_wrong(setup: Setup, without_watch: None, monkeypatch: Patch):
    import finetune.training.loop

    plain = finetune.training.loop.backward

    def reading(learner: Any, loss: Tensor) -> None:
        loss.item()
        plain(learner, loss)

    monkeypatch.setattr(finetune.training.loop, "backward", reading)
    outcome = traffic.check_traffic(setup)
    assert is_wrong(outcome, found="linear: RuntimeError: called a", repair="slower than it could")
    assert (
        "(test_checks.py:" in outcome.found
        or "(loop.py:" in outcome.found
        or "(fake_card.py:" in outcome.found
    )


def test_a_copy_from_ordinary_memory_is_wrong(setup: Setup, monkeypatch: Patch):
    def copying(copies: HostCopies) -> None:
        copies.kind = "meta"
        with copies:
            torch.zeros(2, 3).to("meta")

    monkeypatch.setattr(traffic, "_trainings", lambda _setup: [("linear", copying)])
    outcome = traffic.check_traffic(setup)
    assert is_wrong(outcome, found="1 copies from ordinary memory (blocking 2x3)", repair="slower")


def test_copies_are_noted_by_where_they_come_from(monkeypatch: Patch):
    copies, pinned = HostCopies("meta"), torch.zeros(4)
    monkeypatch.setattr(Tensor, "is_pinned", lambda tensor, *_: tensor is pinned)
    with copies:
        there = pinned.to("meta")
        there.copy_(torch.zeros(4))
        there.add_(1)
        torch.zeros(()).add_(1).item()
    assert copies.seen == ["pinned 4", "blocking 4"]


def served(monkeypatch: Patch, *, device: str = "cpu", error: float = 0.0, nodes: Any = None) -> None:
    """Let the exported files be answered so, without exporting any."""
    right = {"logits": np.eye(32, 6, dtype=np.float32), "probs": np.eye(32, 6, dtype=np.float32)}
    monkeypatch.setattr(serving, "write_file", lambda *given: None)
    monkeypatch.setattr(
        serving,
        "OnnxClassifier",
        lambda *given, **named: SimpleNamespace(device=device, device_note="asked"),
    )
    monkeypatch.setattr(serving, "eager_answers", lambda graph, images: right)
    monkeypatch.setattr(
        serving, "onnx_answers", lambda model, images, size: {k: v[:size] + error for k, v in right.items()}
    )
    monkeypatch.setattr(serving, "places_of_nodes", lambda file, setup: nodes or {CPU: Counter(Conv=3)})


def test_serving_passes_and_its_faults_are_wrong(setup: Setup, monkeypatch: Patch):
    served(monkeypatch)
    assert serving.check_serving(setup).status == "ok"
    served(monkeypatch, device="cuda")  # another than what was asked for: here the CPU
    assert is_wrong(serving.check_serving(setup), found="linear: it runs on cuda", repair="crl doctor looks")
    served(monkeypatch, error=1e-3)
    assert is_wrong(serving.check_serving(setup), found="outputs off by 1.0e-03", repair="serve on the CPU")


def test_a_node_on_the_processor_is_wrong_on_a_gpu(setup: Setup, card: FakeCard, monkeypatch: Patch):
    served(monkeypatch, nodes={CUDA: Counter(Conv=9), CPU: Counter(Gather=2)})
    card.on_cuda = True
    outcome = serving.check_serving(setup)
    assert is_wrong(outcome, found="linear: on the processor run 2 Gather", repair="slower")


def test_a_runtime_without_cuda_is_wrong(setup: Setup, monkeypatch: Patch):
    served(monkeypatch)

    def refused(file: Path, device: str) -> Any:
        raise ResourceError("device cuda cannot be used: built without CUDA")

    monkeypatch.setattr(serving, "OnnxClassifier", refused)
    assert is_wrong(serving.check_serving(setup), found="built without CUDA", repair="crl doctor looks at")


def speeds(monkeypatch: Patch, there: float, ours: float, plain: float, main: float = 0.1) -> None:
    """Let the loops have these speeds in images a second."""
    found = {"on device": Speed(there, 0.1), "ours": Speed(ours, main), "plain": Speed(plain, 0.9)}
    monkeypatch.setattr(speed, "measure", lambda *given: found)


def test_a_loop_that_is_slower_than_the_plain_one_is_wrong(setup: Setup, monkeypatch: Patch):
    speeds(monkeypatch, 3000, 2990, 2000)
    outcome = speed.check_speed(setup)
    assert outcome.status == "ok"
    assert "2,990 img/s by our loader, 3,000 on a batch on the device, 2,000 by timm's" in outcome.found
    speeds(monkeypatch, 3000, 2990, 3100)
    assert is_wrong(speed.check_speed(setup), found="slower than timm's plain one", repair="send")
    speeds(monkeypatch, 3000, 2000, 1900, main=0.5)
    outcome = speed.check_speed(setup)
    assert outcome.status == "note"
    assert "waits for images (67 % of its speed)" in outcome.found
    assert "main thread takes 50 % of a core" in outcome.found
    assert "more CPU cores" in outcome.repair


def test_a_peak_that_was_not_counted_is_wrong(setup: Setup, card: FakeCard):
    found = Findings()
    counted, _ = memory.counted_and_taken(setup, memory.HEADS[0])
    card.taken = round(counted * (1 + 0.9 * PEAK))
    memory._peak(setup, memory.HEADS[0], found)
    assert found.outcome().status == "ok"
    card.taken = round(counted * 1.3)
    memory._peak(setup, memory.HEADS[0], found)
    assert is_wrong(found.outcome(), found="counted (+30 %)", repair="crl fine cost")


def test_models_that_find_no_memory_together_are_wrong(setup: Setup, monkeypatch: Patch):
    found = Findings()
    memory._together(setup, "logistic", found)
    assert "logistic: 64 models train and are tested at once" in found.outcome().found

    def full(*_given: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(memory.general, "train_steps", full)
    memory._together(setup, "logistic", found)
    assert is_wrong(found.outcome(), found="64 models at once run out of memory", repair="--run.together")


def test_running_out_of_memory_must_name_two_remedies(setup: Setup, monkeypatch: Patch):
    found = Findings()
    memory._forced(setup, found)
    assert "two remedies, and the next step works" in found.outcome().found
    monkeypatch.setattr(memory, "REMEDIES", ("--train.batch_size", "--buy.memory"))
    memory._forced(setup, found)
    assert is_wrong(found.outcome(), found="does not name --buy.memory", repair="small batches")

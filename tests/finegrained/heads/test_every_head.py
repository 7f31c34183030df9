"""What holds for every head: any backbone and size, gradients, learning, resuming, two processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune.models.heads.registry import head_class, head_names
from tests.finegrained.every_head import (
    CASES,
    CLASSES,
    PREPARED,
    RUNS,
    build,
    config,
    loss_of,
    on_backbones,
    shown,
)
from tests.finetune.quick import break_off, metrics, task_of, train, trained_hash

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[3]


def test_no_head_is_left_out():
    unordered = {name for name in head_names() if not head_class(name).ordered}  # the others ask for an order
    assert {head for head, _ in CASES.values()} == unordered
    assert head_class("dcl").__module__ == "finegrained.heads.dcl"


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize(("case", "backbone"), on_backbones())
def test_a_head_stands_on_any_backbone_at_any_size(case: str, backbone: str, size: int):
    core = build(case, backbone, size).eval()
    images = torch.randn(3, 3, size, size)
    with torch.inference_mode():
        logits = core.infer(images)
        alone = core.infer(images[1:2])
    assert logits.shape == (3, CLASSES)
    assert torch.isfinite(logits).all()
    torch.testing.assert_close(alone, logits[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("case", "backbone"), on_backbones("vgg11"))  # 2 s a head
def test_the_gradient_reaches_every_weight_that_should_learn(case: str, backbone: str):
    core = build(case, backbone).train()
    loss_of(core, torch.randn(6, 3, 64, 64), torch.arange(6) % CLASSES).backward()
    silent = [name for name, p in core.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A ViT's class token says nothing about its grid, and its last block's keys not much of the grid's mean.
    behind = ("backbone.model.cls_token", "backbone.model.reg_token") if backbone == "test_vit" else ()
    assert [name for name in silent if not name.startswith(behind)] == []


@pytest.mark.parametrize("case", CASES)
def test_a_frozen_backbone_gets_no_gradient_and_the_head_all_of_its_own(case: str):
    core = build(case).train()
    core.freeze_backbone(True)
    loss_of(core, torch.randn(6, 3, 64, 64), torch.arange(6) % CLASSES).backward()
    assert all(p.grad is None for p in core.backbone.parameters())
    assert all(p.grad is not None for p in core.head.parameters())


@pytest.mark.parametrize("case", CASES)
def test_half_precision_stays_finite_forward_and_backward(case: str):
    core = build(case).train()
    images = 30 * torch.randn(6, 3, 64, 64)  # far beyond what a normalised image holds
    with torch.autocast("cpu", torch.bfloat16):
        value = loss_of(core, images, torch.arange(6) % CLASSES)
    value.backward()
    assert torch.isfinite(value)
    for name, parameter in core.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("A-Softmax", "CosFace")])
def test_two_batches_are_learned_by_heart(case: str):
    """Learn sixteen images and recognise them in evaluation mode, as the model would be used."""
    core = build(case)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(8, 3, 64, 64, generator=generator), torch.randint(CLASSES, (8,), generator=generator))
        for _ in range(2)
    ]
    optimizer = torch.optim.AdamW(core.parameters(), lr=2e-3, weight_decay=0.0)
    for step in range(300):
        core.train()
        images, target = batches[step % 2]
        optimizer.zero_grad()
        loss_of(core, images, target).backward()
        torch.nn.utils.clip_grad_norm_(core.parameters(), 5.0)
        optimizer.step()
        if step % 20 == 19 and all(right(core, *batch) for batch in batches):
            return
    raise AssertionError("sixteen images were not learned by heart in 300 steps")


def right(core: torch.nn.Module, images: torch.Tensor, target: torch.Tensor) -> bool:
    """Return whether every image is recognised in evaluation mode."""
    with torch.inference_mode():
        return bool((core.eval().infer(images).argmax(1) == target).all())


@pytest.mark.parametrize("case", RUNS)
def test_a_run_that_was_broken_off_ends_where_an_unbroken_one_does(case: str, pictures: Path, tmp_path: Path):
    asked = config(case, train_epochs=2, run_checkpoint_minutes=60.0)
    task = task_of(pictures, asked)
    whole = trained_hash(train(task, tmp_path / "whole", asked))
    assert "step 2 of epoch 2" in break_off(task, tmp_path / "cut", asked, calls_of(case, 7))
    assert trained_hash(train(task, tmp_path / "cut", asked)) == whole
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")


def calls_of(case: str, step: int) -> int:
    """Return the number of the class loss's call in this step (from 1): a branch calls it too."""
    core = build(case)
    images, target = shown(core, torch.randn(4, 3, 64, 64), torch.arange(4) % 3)
    branches = core(images, target).branches.values()
    calls = 1 + sum(not branch.domain for branch in branches)
    return (step - 1) * calls + 1


@pytest.mark.parametrize("case", PREPARED)
def test_a_head_that_begins_from_the_pictures_asks_for_them(case: str):
    assert build(case).head.hooks().prepare is not None


@pytest.fixture(scope="module")
def together(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """What two processes found after training every head together."""
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.finegrained.two_processes", str(pictures), str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, dict[str, object]] = json.loads((folder / "result.json").read_text())
    return found


@pytest.mark.exhaustive  # training/optimization/test_distributed.py shows two processes in every run
@pytest.mark.parametrize("case", RUNS)
def test_two_processes_learn_what_one_learns(case: str, together: dict[str, dict[str, object]]):
    found = together[case]
    assert found["same_in_both"]
    if found["draws_alike"]:
        assert float(found["difference"]) < 2e-5  # type: ignore[arg-type]

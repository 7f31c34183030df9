"""How many models fit on a GPU: every network counted without computing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from finetune.training.optimization import memory
from finetune.training.optimization.memory import TensorMemory
from finetune.training.optimization.precision import Precision
from generalcls.config import GeneralTrainConfig
from generalcls.networks.registry import NETWORKS, build_network, count_parameters
from generalcls.parallel.memory_plan import MOST_TOGETHER, MemoryPlan, plan_memory
from generalcls.parallel.model_stack import ModelStack
from tests.generalcls.small_study import arms, training

GPUS = (8e9, 24e9, 80e9)
SMALL = {"logistic": (1, 28, 28), "mlp": (1, 28, 28), "mnist_cnn": (1, 28, 28)}
DEFAULT = ("mlp", "mnist_cnn", "cifar_cnn")
ALL = [name if name in DEFAULT else pytest.param(name, marks=pytest.mark.exhaustive) for name in NETWORKS]
TRAIN = GeneralTrainConfig(batch_size=64)


def test_a_plan_may_fill_nine_tenths_of_what_a_gpu_has_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "free_gpu_bytes", lambda _device: 1000)
    assert memory.room(torch.device("cuda:1")) == 900


def on_gpu(dtype: torch.dtype) -> Precision:
    return Precision(torch.device("cuda"), dtype, True, False, "cuda", "without one")


def plan(name: str, room: float, dtype: torch.dtype = torch.float32) -> MemoryPlan:
    shape = SMALL.get(name, (3, 32, 32))
    with torch.device("meta"):
        network = build_network(name, channels=shape[0], image_size=shape[1], num_classes=10)
    return plan_memory(network, shape, TRAIN, on_gpu(dtype), int(room))


@pytest.mark.parametrize("name", ALL)
def test_training_and_testing_fit_on_every_gpu(name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        found = plan(name, 0, dtype)
        for size in GPUS:
            own = MemoryPlan(found.training, found.held, found.testing, int(0.9 * size), shared=True)
            models, images = own.together, own.test_batch(own.together)
            assert models * own.training <= own.room
            assert models == MOST_TOGETHER or (models + 1) * own.training > own.room
            assert models * (own.held + own.testing * images / 500) <= own.room
            assert 1 <= images <= max(1, 500 // models)
        if name in ("resnet164", "densenet40", "mobilenetv2"):  # 64 of them fit nowhere
            assert MOST_TOGETHER * plan(name, 0).training > 70e9


def test_what_one_model_takes_is_what_a_step_of_two_adds() -> None:
    def peak(models: int) -> int:
        arm = arms("cel")[0]
        found = training("mnist_cnn", [(arm, 0)] * models, side_by_side=True, dtype=torch.float32)
        memory = TensorMemory([*found.stack.params.values(), *found.stack.buffers.values()])
        with memory:
            epoch = found.batches.epoch(0)
            found.train_step(epoch)
            found.step = 1
            found.train_step(epoch)
        return memory.peak

    network = build_network("mnist_cnn", channels=1, image_size=8, num_classes=3)
    config = GeneralTrainConfig(batch_size=8)
    counted = plan_memory(network, (1, 8, 8), config, on_gpu(torch.float32), 1).training
    assert counted == pytest.approx(peak(3) - peak(2), rel=0.05)


def test_half_a_format_keeps_whole_weights_and_half_activations() -> None:
    weights = 4 * count_parameters(build_network("cifar_cnn", channels=3, image_size=32, num_classes=10))
    whole, half = plan("cifar_cnn", 0), plan("cifar_cnn", 0, torch.bfloat16)
    assert whole.held == half.held == 3 * weights
    assert half.training - half.held == pytest.approx((whole.training - weights) / 2, rel=0.1)


def test_a_gpu_shares_its_test_images_and_a_cpu_shows_all_to_each() -> None:
    roomy = {"training": 10, "held": 3, "testing": 1000, "room": 10**6}
    assert [MemoryPlan(**roomy, shared=True).test_batch(models) for models in (1, 16, 64, 600)] == [
        500,
        31,
        7,
        1,
    ]
    assert MemoryPlan(**roomy, shared=False).test_batch(64) == 500
    assert MemoryPlan(10, 3, 1000, 5000, shared=False).test_batch(10) == 125  # 30 held, 250 an image
    assert MemoryPlan(10, 3, 1000, 5, shared=True).together == 1


def test_one_at_a_time_is_not_counted() -> None:
    network = build_network("mnist_cnn", channels=1, image_size=8, num_classes=3)
    found = plan_memory(network, (1, 8, 8), TRAIN, on_gpu(torch.float32), 10**12, side_by_side=False)
    assert found.together == 1


def test_a_network_that_cannot_be_counted_is_told_and_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def embeddings(_self: ModelStack, _images: torch.Tensor) -> Iterator[torch.Tensor]:
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(ModelStack, "embeddings", embeddings)
    found = plan("mlp", 8e9)
    assert found.testing == 0
    assert found.test_batch(1) == 500
    assert "not known beforehand (Tensor.item() cannot" in capsys.readouterr().out

"""How many models train together, and on how many images they are tested at once: by a device's free memory.

A step of one model is done on tensors without numbers, and what it keeps is counted: weights, gradients, the
optimiser's state, activations. Many models take as many times that.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.cli.console import say
from finetune.errors import ResourceError
from finetune.experiments.study.arms import build_arms
from finetune.training.optimization.memory import TensorMemory
from finetune.training.optimization.precision import Precision
from generalcls.config import GeneralTrainConfig
from generalcls.networks.registry import Network, count_parameters
from generalcls.parallel.model_stack import ModelStack
from generalcls.parallel.objectives import Learned, StackObjective

MOST_TOGETHER = 64
TEST_IMAGES = 500  # shown at once to all models of a GPU together, or to each on a CPU
# Tensors as large as the weights: what the optimiser keeps, and what it needs for a moment.
STATES = {"sgd": 1, "adam": 2, "adamw": 2, "rmsprop": 2, "adadelta": 4}
META = torch.device("meta")


@dataclass(frozen=True)
class MemoryPlan:
    """What one model takes, in bytes, and what there is.

    Args:
        training: a step of training, with weights, gradients and the optimiser's state.
        held: what stays between two steps.
        testing: predictions for `TEST_IMAGES` images, beside what is held.
        room: what the device has for all models.
        shared: whether all models are tested on a batch at once, as on a GPU.
        most: the most models that train together.
    """

    training: int
    held: int
    testing: int
    room: int
    shared: bool
    most: int = MOST_TOGETHER

    @property
    def together(self) -> int:
        """How many models train together."""
        return max(1, min(self.most, self.room // max(1, self.training)))

    def test_batch(self, models: int) -> int:
        """Return on how many images so many models, side by side, are tested at once."""
        images = max(1, TEST_IMAGES // models) if self.shared else TEST_IMAGES
        while images > 1 and models * (self.held + self.testing * images / TEST_IMAGES) > self.room:
            images //= 2
        return images


def plan_memory(
    network: Network,
    shape: Sequence[int],
    config: GeneralTrainConfig,
    precision: Precision,
    room: int,
    *,
    side_by_side: bool = True,
    dtype: torch.dtype = torch.float32,
) -> MemoryPlan:
    """Return the plan for models like this one.

    Args:
        network: any of them; it stays as it is.
        shape: of an image, (C, H, W).
        config: batch and optimiser.
        precision: where, and in which format, it trains.
        room: bytes that all models may take.
        side_by_side: whether they are computed as one batched model; otherwise one trains at a time, and its
            step is not counted.
        dtype: of the weights.
    """
    size = torch.finfo(dtype).bits // 8
    weights = count_parameters(network) * size
    held = weights * (2 + STATES[config.optimizer])
    testing = _test_bytes(network, (TEST_IMAGES, *shape), dtype, side_by_side=side_by_side) - weights
    training = held
    if side_by_side:
        half = precision.dtype != torch.float32
        step = _step_bytes(network, (config.batch_size, *shape), precision.dtype if half else dtype)
        # A half format's weights and gradients are copies for the step: the whole ones are there as well.
        training += step - (0 if half else 2 * weights)
    shared, most = precision.device.type == "cuda", MOST_TOGETHER if side_by_side else 1
    return MemoryPlan(training, held, max(0, testing), room, shared, most)


def _step_bytes(network: Network, batch: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the most that weights, gradients and activations of a step take, all in one format."""
    stack = _stack(network, dtype, side_by_side=True)
    target = torch.zeros(1, batch[0], dtype=torch.int64, device=META)
    index = torch.zeros(1, dtype=torch.int64, device=META)
    dropouts = stack.dropout_shapes(torch.zeros(1, *batch[1:], dtype=dtype))
    arms = StackObjective.of(build_arms(["cel"], controls=False))

    def objective(
        models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Learned]:
        logits = torch.bmm(embedding.float(), weight.float().mT)
        logits = logits if bias is None else logits + bias.float()[:, None]
        return logits, arms.learn(models, logits, logits, target)

    memory = TensorMemory([*stack.params.values(), *stack.buffers.values()])
    with memory:
        images = torch.empty(1, *batch, dtype=dtype, device=META)
        masks = {
            name: torch.empty(1, batch[0], *shape, dtype=torch.bool, device=META)
            for name, (_, shape) in dropouts.items()
        }
        logits, learned = stack.forward_together(images, index, masks, objective)
        logits.backward(learned.grads)  # type: ignore[no-untyped-call]
    return memory.peak


def _test_bytes(network: Network, batch: tuple[int, ...], dtype: torch.dtype, *, side_by_side: bool) -> int:
    """Return the most that weights and activations of a test batch take; 0 where it cannot be counted."""
    stack = _stack(network, dtype, side_by_side=side_by_side)
    memory = TensorMemory([*stack.params.values(), *stack.buffers.values()])
    try:
        with memory:
            for _ in stack.embeddings(torch.empty(*batch, dtype=dtype, device=META)):
                pass
    except (RuntimeError, NotImplementedError) as error:  # some networks read numbers, and here are none
        why = (str(error).splitlines() or [type(error).__name__])[0]
        say(f"notice: the memory of a test batch of this network is not known beforehand ({why})")
        return 0
    return memory.peak


def _stack(network: Network, dtype: torch.dtype, *, side_by_side: bool) -> ModelStack:
    nowhere = Precision(META, torch.float32, True, False, "meta", "counted")
    on_meta = copy.deepcopy(network).to(META)
    return ModelStack([on_meta], nowhere, side_by_side=side_by_side, dtype=dtype)


class NoMemoryError(ResourceError):
    """The models of a stack do not fit into the device's memory."""


def memory_error(models: int, error: Exception) -> NoMemoryError:
    """Return the error that says how so many models train in less memory."""
    many = f"{models} models together do" if models > 1 else "the model does"
    fewer = f"--run.together {models // 2} or " if models > 1 else ""
    return NoMemoryError(
        f"{many} not fit into the memory ({error}); give {fewer}a smaller --train.batch_size"
    )

"""Many small networks trained as one: weights in one tensor per layer, own losses and learning rates.

Model m of M owns slice m of every tensor. Two ways lead to the same numbers: side by side (torch.func.vmap:
one matrix product for all, what a GPU is for and what suits networks of plain matrices anywhere), or one by
one on views of the same tensors (convolutions on a CPU, where a grouped one is slower than M plain
ones).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from finetune.training.optimization.precision import Precision
from generalcls.networks.dropout import Dropout
from generalcls.networks.registry import Network
from generalcls.parallel.objectives import Learned

WEIGHT, BIAS = "classifier.weight", "classifier.bias"


class Objective(Protocol):
    """What the models of a step minimise."""

    def __call__(
        self, models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Learned]:
        """Return logits (m, B, K) with their graph, and what is learned from them.

        Args:
            models: which of all models these are.
            embedding: (m, B, D).
            weight: (m, K, D).
            bias: (m, K), or None.
        """
        ...


class ModelStack:
    """M networks of one architecture; see the module for the two ways of computing.

    Args:
        networks: built one by one, so that each starts as it would alone.
        precision: device and number format.
        side_by_side: compute all at once (vmap), or one by one.
        dtype: of the weights: float32, or float64 for exact comparisons.

    Attributes:
        params, buffers: by name, (M, *shape).
    """

    def __init__(
        self,
        networks: Sequence[Network],
        precision: Precision,
        *,
        side_by_side: bool,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.precision, self.side_by_side, self.count = precision, side_by_side, len(networks)
        first = networks[0]
        parameters = [name for name, _ in first.named_parameters()]
        states = [network.state_dict() for network in networks]
        stacked = {
            name: torch.stack([state[name] for state in states]).to(precision.device) for name in states[0]
        }
        stacked = {k: v.to(dtype) if v.is_floating_point() else v for k, v in stacked.items()}
        # Tables that a network makes for itself (Swin's places) are not in its state: all have the same.
        self.fixed = {
            name: buffer.to(precision.device)
            for name, buffer in first.named_buffers()
            if name not in states[0] and not name.endswith("keep")
        }
        self.params = {name: stacked.pop(name).requires_grad_(side_by_side) for name in parameters}
        self.buffers = stacked
        self.decays = {name: parameter.ndim > 1 for name, parameter in first.named_parameters()}
        self.parameters_each = sum(parameter.numel() for parameter in first.parameters())
        self.grads: dict[str, Tensor] = {}
        if side_by_side:
            self._skeleton = _Features(copy.deepcopy(networks[0]).to(device="meta"))
            self._mapped = torch.func.vmap(self._features_of, randomness="error")
        else:
            if self.count > 1:
                self.grads = {name: torch.zeros_like(value) for name, value in self.params.items()}
            self._members = [self._bound(copy.deepcopy(network), m) for m, network in enumerate(networks)]
            self._own = [dict(network.named_parameters()) for network in self._members]

    def dropout_shapes(self, images: Tensor) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return {name: (p, shape of its input without the batch)} of every dropout, from one image."""
        network = self._skeleton.network if self.side_by_side else self._members[0]
        probe = copy.deepcopy(network).to(device="meta", dtype=images.dtype).eval()
        probe(images.to("meta"))
        found = {name: part for name, part in probe.named_modules() if isinstance(part, Dropout)}
        return {name: (part.p, part.shape) for name, part in found.items() if part.p > 0}

    def train_step(
        self, images: Tensor, rows: Sequence[int], masks: Mapping[str, Tensor], objective: Objective
    ) -> Learned:
        """Fill the gradients of models that train one by one, and return what they learned.

        Args:
            images: (S, B, C, H, W), one batch per seed.
            rows: for each model the seed's position, length M.
            masks: dropout's masks by module name, bool (S, B, *shape).
            objective: what each model minimises.
        """
        parts = []
        for m, network in enumerate(self._members):
            if not network.training:
                network.train()
            for parameter in self._own[m].values():
                parameter.grad = None
            for name, mask in masks.items():
                cast(Dropout, network.get_submodule(name)).keep = mask[rows[m]]
            with self._format():
                embedding = network.features(images[rows[m]])
            layer = network.classifier
            bias = None if layer.bias is None else layer.bias[None]
            logits, learned = objective(slice(m, m + 1), embedding[None], layer.weight[None], bias)
            logits.backward(learned.grads)  # type: ignore[no-untyped-call]
            self._collect(m)
            parts.append(learned)
        return Learned.of(parts)

    def forward_together(
        self, images: Tensor, index: Tensor, masks: Mapping[str, Tensor], objective: Objective
    ) -> tuple[Tensor, Learned]:
        """Return the logits (M, B, K) of models side by side, with their graph, and what they learn.

        Args:
            images: (S, B, C, H, W), one batch per seed.
            index: for each model the seed's position, int64 (M,).
            masks: dropout's masks by module name, bool (S, B, *shape).
            objective: what each model minimises.
        """
        given = dict(self.buffers)
        given.update({f"{name}.keep": mask.index_select(0, index) for name, mask in masks.items()})
        with self._format():
            embedding = self._mapped(self.params, given, images.index_select(0, index))
        return objective(slice(0, self.count), embedding, self.params[WEIGHT], self.params.get(BIAS))

    def begin_step(self) -> None:
        """Forget the gradients of models side by side, which then learn."""
        if not self._skeleton.training:
            self._skeleton.train()
        for value in self.params.values():
            value.grad = None

    @torch.inference_mode()
    def embeddings(self, images: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
        """Yield (models, embedding (m, B, D), weight, bias) for images (B, C, H, W) shown to every model.

        Predictions are never made in half precision.
        """
        weight, bias = self.params[WEIGHT].detach(), self.params.get(BIAS)
        bias = None if bias is None else bias.detach()
        if self.side_by_side:
            self._skeleton.eval()
            shared = torch.func.vmap(self._features_of, in_dims=(0, 0, None))
            embedding = shared(self.params, self.buffers, images)
            yield slice(0, self.count), embedding, weight, bias
            return
        for m, network in enumerate(self._members):
            network.eval()
            embedding = network.features(images)[None]
            yield slice(m, m + 1), embedding, weight[m : m + 1], None if bias is None else bias[m : m + 1]

    def gradient(self, name: str) -> Tensor:
        """Return a parameter's gradient after a step, (M, *shape); zeros where nothing read it."""
        if not self.side_by_side:
            return self.grads[name]
        found = self.params[name].grad
        return torch.zeros_like(self.params[name]) if found is None else found

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return all weights and buffers, (M, *shape) by name."""
        return {"params": {k: v.detach() for k, v in self.params.items()}, "buffers": dict(self.buffers)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Put back what `state_dict` returned, in place."""
        for name, value in self.params.items():
            value.copy_(state["params"][name])
        for name, value in self.buffers.items():
            value.copy_(state["buffers"][name])

    def model_state(self, m: int) -> dict[str, Tensor]:
        """Return model m's own state_dict."""
        both = {**self.params, **self.buffers}
        return {name: value[m].detach().clone() for name, value in both.items()}

    def _format(self) -> AbstractContextManager[object]:
        """Return the context of the format; how float32 is computed is set outside of a compiled step."""
        half = self.precision.dtype != torch.float32
        return self.precision.autocast() if half else nullcontext()

    def _collect(self, m: int) -> None:
        """Put the gradients of model m beside those of the others; of a single model they are all."""
        for name, parameter in self._own[m].items():
            grad = parameter.grad
            if self.count == 1:
                self.grads[name] = torch.zeros_like(self.params[name]) if grad is None else grad[None]
            elif grad is None:
                self.grads[name][m].zero_()
            else:
                self.grads[name][m].copy_(grad)

    def _features_of(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], images: Tensor
    ) -> Tensor:
        values = {f"network.{name}": value for name, value in {**params, **buffers, **self.fixed}.items()}
        return cast(Tensor, torch.func.functional_call(self._skeleton, values, (images,)))

    def _bound(self, network: Network, m: int) -> Network:
        """Return the network with slice m of the stacked tensors for its weights and buffers."""
        for name, value in self.params.items():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, nn.Parameter(value[m]))
        own = {**{name: value[m] for name, value in self.buffers.items()}, **self.fixed}
        for name, value in own.items():
            owner, _, leaf = name.rpartition(".")
            setattr(network.get_submodule(owner), leaf, value)
        return network


class _Features(nn.Module):
    """A network seen through `features`, which `functional_call` can call."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)

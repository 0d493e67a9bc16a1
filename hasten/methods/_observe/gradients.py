"""How much do a model's outputs depend on each position of a layer? What padding computes must not count.

The error of a layer's output y at one position changes the model's outputs by about its product with the
gradient there, so a position counts by the mean square of ∂(r · outputs)/∂y over the layer's outputs, with
random signs r: the diagonal of the Fisher information of squared error, averaged over the channels. Positions
that nothing depends on, as the padding behind an attention mask, count nothing, without being named.

Sources: Kim et al. 2025, "GuidedQuant: Large Language Model Quantization via Exploiting End Loss Guidance",
section 3 (layer-wise errors weighted by gradients, averaged over groups of outputs: here one group); Hassibi
and Stork 1993, "Optimal Brain Surgeon", section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hasten.core.data import Array
from hasten.core.errors import MethodError, ModelError
from hasten.graph import Graph


class Gradients:
    """A graph in PyTorch, and the importance of every position of some inner values."""

    def __init__(self, graph: Graph, names: Sequence[str], seed: int) -> None:
        """names: of inner values. Raises Unavailable without PyTorch, MethodError for operators it lacks."""
        from hasten.bridge import to_torch

        try:
            self._module = to_torch(graph, names)
        except ModelError as error:
            raise MethodError(f"importance: gradients cannot be had of this graph: {error}") from error
        import torch

        self._module.eval()
        self._names = names
        self._inputs = [spec.name for spec in graph.inputs]
        self._outputs = len(graph.outputs)
        self._random = torch.Generator().manual_seed(seed)

    def of(self, feeds: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
        """Of each value the value itself and its gradient; zeros where no output depends on it."""
        import torch

        found = self._module(*(torch.from_numpy(np.asarray(feeds[name])) for name in self._inputs))
        outputs, inner = found[: self._outputs], found[self._outputs :]
        told = sum(self._told(output) for output in outputs if output.requires_grad)
        gradients: Any = [None] * len(inner)
        learned = [i for i, value in enumerate(inner) if value.requires_grad]
        if learned and isinstance(told, torch.Tensor):
            each = torch.autograd.grad(told, [inner[i] for i in learned], allow_unused=True)
            for i, gradient in zip(learned, each, strict=True):
                gradients[i] = gradient
        return {
            name: (
                value.detach().numpy(),
                np.zeros(value.shape, np.float32) if gradient is None else gradient.numpy(),
            )
            for name, value, gradient in zip(self._names, inner, gradients, strict=True)
        }

    def _told(self, output: Any) -> Any:
        """The output times random signs, over its size, so that no output drowns another."""
        import torch

        signs = torch.randint(0, 2, output.shape, generator=self._random) * 2.0 - 1.0
        size = output.detach().square().mean().sqrt().clamp_min(1e-12)
        return (output * signs).sum() / size

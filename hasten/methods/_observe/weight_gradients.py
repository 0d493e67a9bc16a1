"""How do a model's outputs depend on each of its weights? Two losses that need no labels.

A model that teaches itself makes no error, so that the gradient of the error's is nothing. First-order kinds
of importance take the squared norm of the outputs instead (``norm``), the second-order kind the Fisher
information of squared error (``error``): with independent random signs r for each sample,

    norm:  E over samples of ∂(½‖y‖²)/∂w        error:  E over samples and signs of (∂(r · y)/∂w)²

Each output is divided by its root mean square, so that none drowns another. Signs being independent, the
square of a batch's gradient is, on average, the sum over its samples.

Sources: Aljundi et al. 2018, "Memory Aware Synapses: Learning what (not) to forget", section 4.1 (norm);
Hassibi and Stork 1993, "Optimal Brain Surgeon", section 2 (error); Hutchinson 1990, "A stochastic estimator
of the trace of the influence matrix" (signs).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError, ModelError
from hasten.graph import Graph
from hasten.methods import Context

Loss: TypeAlias = Literal["norm", "error"]


def weight_gradients(
    graph: Graph, names: Sequence[str], samples: Calibration, context: Context, loss: Loss
) -> dict[str, Array]:
    """Of each initializer named that is learned: the mean gradient (``norm``), or the mean of its squares.

    Shapes are those of the initializers. Raises Unavailable without PyTorch, MethodError for operators that
    the bridge lacks.
    """
    from hasten.bridge import to_torch

    try:
        module = to_torch(graph)
    except ModelError as error:
        raise MethodError(f"importance: gradients cannot be had of this graph: {error}") from error
    import torch

    module.eval()
    learned = dict(module.named_parameters())
    wanted = {name: learned[name] for name in names if name in learned}
    found = {name: np.zeros(tuple(weight.shape)) for name, weight in wanted.items()}
    random = torch.Generator().manual_seed(context.seed)
    done = 0
    for batch in samples.batches_for(graph.inputs, context.batch):
        feeds = batch.feeds(graph.inputs)
        made = module(*(torch.from_numpy(np.asarray(feeds[spec.name])) for spec in graph.inputs))
        outputs = [made] if isinstance(made, torch.Tensor) else list(made)
        told = sum(_told(output, loss, random) for output in outputs if output.requires_grad)
        if wanted and isinstance(told, torch.Tensor):
            each = torch.autograd.grad(told, list(wanted.values()), allow_unused=True)
            for name, gradient in zip(wanted, each, strict=True):
                if gradient is not None:
                    step = gradient.numpy().astype(np.float64)
                    found[name] += step if loss == "norm" else np.square(step)
        done += len(batch.indices)
        context.progress("looking at gradients", min(done / len(samples), 1.0))
    return {name: total / max(done, 1) for name, total in found.items()}


def _told(output: Any, loss: Loss, random: Any) -> Any:
    import torch

    size = output.detach().square().mean().sqrt().clamp_min(1e-12)
    if loss == "norm":
        return 0.5 * (output / size).square().sum()
    signs = torch.randint(0, 2, output.shape, generator=random) * 2.0 - 1.0
    return (output / size * signs).sum()

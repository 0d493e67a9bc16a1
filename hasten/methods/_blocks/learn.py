"""One block trained: through the same ``fit`` as whole models, on the values at its two ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hasten.bridge.module import GraphModule
from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.methods._blocks.tape import WANTED, Tape
from hasten.methods._blocks.units import count_in, learned
from hasten.train.samples import Batch
from hasten.train.settings import Settings
from hasten.train.start import fit


@dataclass(frozen=True)
class Learned:
    """The tensors that were learned, by name, and the relative squared error on the samples held back."""

    tensors: Mapping[str, Array]
    before: float
    after: float

    @property
    def better(self) -> bool:
        """Whether anything was learned that holds for samples not learned from."""
        return self.after < self.before


def learn(
    block: Graph,
    tape: Tape,
    units: Mapping[str, Array],
    settings: Settings,
    *,
    together: bool,
    progress: Callable[[float], None],
) -> Learned:
    """Train the tensors named in ``units``, counted in these.

    together: whether samples can be computed at once, stacked along their first axis.
    """
    graph = block.copy()
    count_in(graph, units)
    module = _Block(graph, tape, together=together)
    powers = tape.powers

    def error(outputs: dict[str, Tensor], batch: Batch) -> Tensor:
        each = [
            (outputs[name] - batch.inputs[f"{WANTED}{name}"]).square().mean() / power
            for name, power in powers.items()
        ]
        return torch.stack(each).mean()

    fitted = fit(
        module,
        Calibration(tape.store, range(len(tape))),
        settings=settings,
        loss=error,
        listener=lambda event: progress(event.step / event.steps),
    )
    losses = [row.loss for row in fitted.history.evaluations]
    return Learned(learned(block, module.graph.to_graph(), units), losses[0], min(losses))


class _Block(nn.Module):
    """A block as a module of what its tape holds, in the order of its fields, an axis of samples first."""

    def __init__(self, graph: Graph, tape: Tape, *, together: bool) -> None:
        super().__init__()
        self.graph = GraphModule(graph)
        self._fields: Sequence[str] = tape.store.fields
        self._together = together

    def train(self, mode: bool = True) -> _Block:
        """Leave the graph as it infers: neither statistics nor dropout belong to its rounding."""
        return super().train(False)

    def forward(self, *values: Tensor) -> dict[str, Tensor]:
        """What comes out, an axis of samples first."""
        given = dict(zip(self._fields, values, strict=True))
        count = len(values[0])
        inputs = [given[name] for name in self.graph.input_names]
        if self._together:
            found = self._run([value.flatten(0, 1) for value in inputs])
            return {name: value.reshape(count, -1, *value.shape[1:]) for name, value in found.items()}
        each = [self._run([value[i] for value in inputs]) for i in range(count)]
        return {name: torch.stack([row[name] for row in each]) for name in each[0]}

    def _run(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        found: Any = self.graph(*inputs)
        outputs = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.graph.output_names, outputs, strict=True))

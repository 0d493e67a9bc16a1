"""What is minimized as a whole: weighted terms, each a sum over samples, so that parts of a batch add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from hasten.core.errors import InputError
from hasten.train.samples import Batch

Values: TypeAlias = Mapping[str, Tensor]
Gather: TypeAlias = Callable[[Tensor], tuple[Tensor, ...]]
"""One tensor of every process, this process's own as it is."""
Loss: TypeAlias = Callable[[dict[str, Tensor], Batch], Tensor]


@dataclass(frozen=True)
class Term:
    """One part of the loss.

    each: from outputs, the teacher's values and the batch to (samples,). joint: or from outputs and the
    teacher's values to two tensors whose rows of all processes ``relation`` makes one number of.
    """

    name: str
    weight: float
    each: Callable[[Values, Values, Batch], Tensor] | None = None
    joint: Callable[[Values, Values], tuple[Tensor, Tensor]] | None = None
    relation: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Metric:
    """How right the outputs are, a number a sample; higher is better."""

    name: str
    each: Callable[[Values, Values, Batch], Tensor]


@dataclass(frozen=True)
class Part:
    """A piece of a batch: ``mine`` of its ``samples`` are this process's, of ``batch`` samples in all."""

    mine: int
    samples: int
    batch: int
    world: int


@dataclass(frozen=True)
class Objective:
    """All terms and the metric; ``inner``: values of the student and of the teacher that terms compare."""

    terms: tuple[Term, ...]
    metric: Metric | None = None
    inner: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the terms, each once."""
        return tuple(dict.fromkeys(term.name for term in self.terms))

    def contributions(
        self, outputs: Values, wanted: Values, batch: Batch, part: Part, gather: Gather
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What this process's samples add to the batch's loss, and to each of its terms.

        Sums over processes and parts are the batch's loss. Its gradient is the sum of the gradients of the
        first result, joint terms included: their value is shared out among the processes, their derivative by
        this process's rows is whole.
        """
        found: dict[str, Tensor] = {}
        total: Tensor | None = None
        for term in self.terms:
            if term.each is not None:
                value = term.each(outputs, wanted, batch)[: part.mine].sum() / part.batch
            else:
                assert term.joint is not None
                assert term.relation is not None
                pair = [torch.cat(gather(rows[: part.mine])) for rows in term.joint(outputs, wanted)]
                whole = term.relation(*pair) * (part.samples / part.batch)
                value = whole.detach() / part.world + (whole - whole.detach())
            found[term.name] = found[term.name] + value if term.name in found else value
            weighted = term.weight * value
            total = weighted if total is None else total + weighted
        assert total is not None
        return total, {name: value.detach() for name, value in found.items()}


def of_user(loss: Loss) -> Term:
    """The term of a loss of the user's: the mean over the samples it is given."""

    def each(outputs: Values, wanted: Values, batch: Batch) -> Tensor:
        value = loss(dict(outputs), batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("the loss must return a tensor of one number, the mean over the samples")
        return value.reshape(1).expand(len(batch))

    return Term("loss", 1.0, each)


def only(reasons: Mapping[str, str], names: Sequence[str]) -> str | None:
    """The one name without a reason against it, None where there is none; raises InputError for several."""
    fitting = [name for name in names if name not in reasons]
    if len(fitting) > 1:
        raise InputError(f"the labels fit several outputs, {', '.join(fitting)}: give a loss function")
    return fitting[0] if fitting else None

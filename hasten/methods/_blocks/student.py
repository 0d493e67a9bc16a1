"""What learns, block by block: a graph, which of its tensors, and in which units."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hasten.core.data import Array
from hasten.graph import Graph


@dataclass(frozen=True)
class Moved:
    """What became of a layer. weight: the initializer that it reads, as the graph that learns calls it."""

    layer: str
    op_type: str
    weight: str
    what: str


class Student(Protocol):
    """A graph that learns from the original.

    graph: computes what was given to be mended, with shapes; it is trained in place. layers: names of the
    initializers that make what reads them a layer. same: the largest error, relative to the signal, of a
    value that is still the original's of that name.
    """

    graph: Graph
    layers: Sequence[str]
    same: float

    def likened(self, original: Graph) -> Graph:
        """What is compared with the original, to tell which values of the two mean the same."""

    def begin(self, original: Graph, feeds: Mapping[str, Array], threads: int) -> dict[str, Array]:
        """Let, in place, all that is learned start where it learns best; the unit of each tensor, by name.

        original: the teacher. feeds: of the model, to look at.
        """

    def finished(self) -> Graph:
        """What was given, with what was learned."""

    def moved(self, finished: Graph) -> Iterator[Moved]:
        """Every layer that could learn."""

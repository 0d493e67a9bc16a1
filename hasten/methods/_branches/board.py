"""The graph with a switch for each branch: which branches can be off at how little harm?

Each branch comes in by a gate, and ``Switchboard`` gives the gates a second form: what takes the branch's
place, its numbers being inputs too. So one session answers for every set of branches, and for every repair.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.evaluate import Evaluator
from hasten.graph.names import layer_name
from hasten.graph.switches import Switchboard
from hasten.methods import Context
from hasten.methods._branches.find import Branch
from hasten.methods._branches.repair import KINDS, Kind, Line, Replace, Sums, nothing
from hasten.methods._observe.gradients import Gradients
from hasten.methods._observe.samples import MEMORY_BYTES

_OFF = "off"
_FEWEST = 4


class Board:
    """A graph opened for inference with any of its branches off, and samples with its own outputs.

    kinds, lines: what takes the place of each branch that is off, by the branch's name. relative_to: of the
    outputs, what errors are a part of.
    """

    def __init__(
        self,
        graph: Graph,
        branches: Sequence[Branch],
        samples: Calibration,
        replace: Replace,
        context: Context,
        relative_to: Literal["squares", "variance"] = "squares",
    ) -> None:
        self._relative_to = relative_to
        self.branches = {branch.name: branch for branch in branches}
        self.lines = {branch.name: nothing(branch.channels) for branch in branches}
        self.kinds = dict.fromkeys(self.branches, KINDS[replace][0])
        self._tried = KINDS[replace]
        self._scaled = "affine" in self._tried
        self._inputs = {spec.name for spec in graph.inputs}
        self._gates: dict[str, str] = {}
        self._numbers: dict[str, tuple[str, str]] = {}
        gated = self._gated(graph)
        self._board = Switchboard(gated, {_OFF: self._form(gated)}, {_OFF: set(self._gates.values())})
        inner = [name for b in branches for name in (b.value, b.other, b.skip)]
        self._evaluator = self._board.open(inner, threads=context.threads)
        reference = Evaluator(graph, threads=context.threads)
        self._outputs = reference.output_names
        self._feeds: list[dict[str, Array]] = []
        self._expected: list[dict[str, Array]] = []
        self._counts: list[dict[str, Array]] = []
        held = 0
        for batch in samples.batches_for(graph.inputs, context.batch):
            feeds = batch.feeds(graph.inputs)
            expected = reference.run(feeds)
            held += sum(array.nbytes for array in (*feeds.values(), *expected.values()))
            if held > MEMORY_BYTES and len(self._feeds) >= _FEWEST:
                break
            self._feeds.append(feeds)
            self._expected.append(expected)
            self._counts.append({})
        if not self._feeds:
            raise MethodError("prune_layers has no samples to measure on; give --data")
        self._totals = self._sizes()
        if not self._totals:
            raise MethodError("prune_layers compares numbers, and this model gives out none")

    def count_by_gradients(self, graph: Graph, seed: int) -> None:
        """Let each position count by how much the outputs depend on what the branch adds there.

        Raises Unavailable without PyTorch, MethodError for operators that the bridge lacks.
        """
        names = list(dict.fromkeys(branch.value for branch in self.branches.values()))
        gradients = Gradients(graph, names, seed)
        for counts, feeds in zip(self._counts, self._feeds, strict=True):
            seen = gradients.of(feeds)
            for name, branch in self.branches.items():
                squares = np.square(branch.channels.rows(seen[branch.value][1])).mean(axis=1)
                counts[name] = squares / (squares.mean() or 1.0)  # of the samples none counts more

    def _gated(self, graph: Graph) -> Graph:
        """A copy with an Identity before the input that each branch comes in by."""
        gated = graph.copy()
        editor = Editor(gated)
        nodes = {layer_name(node): node for node in editor.main}
        for branch in self.branches.values():
            node = nodes[branch.node]
            value = node.inputs[branch.index]
            gate = editor.insert(node, "Identity", [value], name=f"{branch.name}.gate")
            assert value is not None
            gate.type, gate.shape = value.type, value.shape
            node.replace_input_with(branch.index, gate)
            made = gate.producer()
            assert made is not None
            self._gates[branch.name] = layer_name(made)
            names = (editor.unique(f"{branch.name}.scale"), editor.unique(f"{branch.name}.shift"))
            self._numbers[branch.name] = names
            shape = branch.channels.along(np.zeros(branch.channels.size)).shape
            for name in names[0 if self._scaled else 1 :]:
                kind = ir.TensorType(branch.dtype)
                editor.main.inputs.append(ir.Value(name=name, type=kind, shape=ir.Shape(shape)))
        return gated

    def _form(self, gated: Graph) -> Graph:
        """The same with what takes its place behind each gate."""
        form = gated.copy()
        editor = Editor(form)
        values = {str(v.name): v for v in editor.main.inputs}
        for node in list(editor.main):
            values |= {str(v.name): v for v in node.outputs}
            name = next((b for b, gate in self._gates.items() if gate == layer_name(node)), None)
            if name is not None:
                scale, shift = self._numbers[name]
                put = values[shift]
                if self._scaled:
                    scaled = editor.insert(node, "Mul", [values[self.branches[name].skip], values[scale]])
                    put = editor.insert(node, "Add", [scaled, put])
                node.replace_input_with(0, put)
        return form

    def _sizes(self) -> dict[str, float]:
        """What the error of each output that is compared is relative to; floats where there are any."""
        floats = [n for n in self._outputs if self._expected[0][n].dtype.kind == "f"]
        names = floats or [n for n in self._outputs if self._expected[0][n].dtype.kind in "iub"]
        sizes = {name: sum(_size(expected[name]) for expected in self._expected) for name in names}
        if self._relative_to == "variance":
            sizes |= {name: sizes[name] - self._about_zero(name) for name in floats}
        return sizes

    def _about_zero(self, name: str) -> float:
        """What the squares of an output have of its mean."""
        count = sum(expected[name].size for expected in self._expected)
        total = sum(float(expected[name].astype(np.float64).sum()) for expected in self._expected)
        return total**2 / max(count, 1)

    def _run(self, feeds: dict[str, Array], off: Collection[str], names: Iterable[str]) -> dict[str, Array]:
        wanted = [name for name in dict.fromkeys(names) if name not in self._inputs]
        if not wanted:
            return dict(feeds)
        numbers: dict[str, Array] = {}
        for name, branch in self.branches.items():
            scale, shift = self._numbers[name]
            line = self.lines[name]
            numbers[shift] = branch.channels.along(line.shift).astype(branch.dtype.numpy())
            if self._scaled:
                numbers[scale] = branch.channels.along(line.scale).astype(branch.dtype.numpy())
        chosen = {self._gates[name]: _OFF for name in off}
        return {**feeds, **self._evaluator.run(self._board.feeds({**feeds, **numbers}, chosen), wanted)}

    def harm(self, off: Collection[str], most: float = math.inf) -> float:
        """The squared error of the worst output with these branches off, relative to its square or variance.

        Of integers it is the share that differs, where no output is a float. Beyond ``most`` the samples that
        are left are not looked at, so that it is at least what is returned.
        """
        wrong = dict.fromkeys(self._totals, 0.0)
        worst = 0.0
        for feeds, expected in zip(self._feeds, self._expected, strict=True):
            got = self._run(feeds, off, self._totals)
            for name, total in self._totals.items():
                wrong[name] += _difference(expected[name], got[name])
                share = wrong[name] / total if total else 0.0
                worst = max(worst, share if math.isfinite(share) else math.inf)
            if worst > most:
                break
        return worst

    def solve(self, names: Collection[str], off: Collection[str]) -> dict[str, dict[Kind, Line]]:
        """What could take each branch's place where ``off`` are off, by kind; its own kind now does."""
        asked = [self.branches[name] for name in names]
        sums = {branch.name: Sums(branch.channels) for branch in asked}
        for feeds, counts in zip(self._feeds, self._counts, strict=True):
            if self._tried == ("nothing",):
                break
            before = self._run(feeds, (), (n for b in asked for n in (b.value, b.other, b.skip)))
            now = self._run(feeds, off, (n for b in asked for n in (b.other, b.skip))) if off else before
            for b in asked:
                missing = before[b.value] + (before[b.other] - now[b.other])
                sums[b.name].update(np.broadcast_to(now[b.skip], missing.shape), missing, counts.get(b.name))
        found = {name: {kind: sums[name].line(kind) for kind in self._tried} for name in names}
        for name in names:
            self.lines[name] = found[name][self.kinds[name]]
        return found

    def influence(self, names: Collection[str]) -> dict[str, float]:
        """Of each branch 1 - E[cos(x, y)], over positions, y being the sum with the branch."""
        asked = [self.branches[name] for name in names]
        alike = dict.fromkeys(names, 0.0)
        counts = dict.fromkeys(names, 0)
        for feeds in self._feeds:
            seen = self._run(feeds, (), (n for b in asked for n in (b.value, b.other)))
            for b in asked:
                other = b.channels.rows(seen[b.other])
                total = b.channels.rows(seen[b.value] + seen[b.other])
                if b.channels.size == 1:
                    other, total = other.T, total.T
                sizes = np.linalg.norm(other, axis=1) * np.linalg.norm(total, axis=1)
                product = (other * total).sum(axis=1)
                cosines = np.divide(product, sizes, where=sizes > 0, out=np.ones_like(sizes))
                alike[b.name] += float(cosines.sum())
                counts[b.name] += len(sizes)
        return {name: 1 - alike[name] / counts[name] for name in names}


def _size(values: Array) -> float:
    return _squares(values) if values.dtype.kind == "f" else float(values.size)


def _difference(expected: Array, got: Array) -> float:
    if expected.shape != got.shape:
        return math.inf
    if expected.dtype.kind != "f":
        return float(np.count_nonzero(expected != got))
    return _squares(expected.astype(np.float64) - got)


def _squares(values: Array) -> float:
    return float(np.square(values.astype(np.float64)).sum())

"""Names for a file that an exporter wrote: those of the source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from hasten.core.data import Array
from hasten.core.errors import ModelError
from hasten.graph import Graph
from hasten.loaders.agree import write_runs
from hasten.loaders.conversion import Conversion


def record(
    source_format: str,
    path: Path,
    runs: Sequence[Mapping[str, Array]],
    answers: Sequence[Mapping[str, Array]],
) -> Conversion:
    """Give an exported file the names in the runs and answers, and leave these beside it.

    Raises ModelError when the file has another number of inputs or outputs.
    """
    feeds, answered = (path.with_name(f"imported-{name}.npz") for name in ("feeds", "answers"))
    model = ir.serde.deserialize_model(onnx.load(path))
    rename(model.graph, list(runs[0]), list(answers[0]))
    _name_batch(model.graph, runs, answers)
    Graph(model).write(path)
    write_runs(feeds, runs)
    write_runs(answered, answers)
    return Conversion(format=source_format, onnx=path, feeds=feeds, answers=answered)


def rename(graph: ir.Graph, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename inputs and outputs in place, in order; inputs that have these names already keep theirs.

    Raises ModelError when there are more or fewer.
    """
    for kind, values, names in (("inputs", graph.inputs, inputs), ("outputs", graph.outputs, outputs)):
        if len(values) != len(names):
            raise ModelError(f"the exporter wrote {len(values)} {kind}, the model has {len(names)}")
    _make_way(graph, {*inputs, *outputs})
    if {value.name for value in graph.inputs} != set(inputs):
        for value, name in zip(graph.inputs, inputs, strict=True):
            value.name = name
    for index, name in enumerate(outputs):
        value = graph.outputs[index]
        # One value can be several outputs, or an input as well, and has one name only.
        if value in graph.inputs or value in graph.outputs[:index]:
            copied = ir.node("Identity", [value])
            copied.outputs[0].type, copied.outputs[0].shape = value.type, value.shape
            graph.append(copied)
            graph.outputs[index] = copied.outputs[0]
        graph.outputs[index].name = name


def _name_batch(
    graph: ir.Graph, runs: Sequence[Mapping[str, Array]], answers: Sequence[Mapping[str, Array]]
) -> None:
    """Call the first axis of inputs and outputs ``batch`` where it is open and, in all runs, of one size."""
    batches = [next(iter(run.values())).shape[:1] for run in runs]
    for values, arrays in ((graph.inputs, runs), (graph.outputs, answers)):
        for value in values:
            shape = value.shape
            open_ended = shape is not None and len(shape) > 0 and not isinstance(shape[0], int)
            if shape is not None and open_ended and [a[str(value.name)].shape[:1] for a in arrays] == batches:
                value.shape = ir.Shape(["batch", *shape[1:]])


def _make_way(graph: ir.Graph, wanted: set[str]) -> None:
    """Rename inner values that have a name an input or output is to get."""
    keep = {*graph.inputs, *graph.outputs}
    for owner in (graph, *graph.subgraphs()):
        made = (value for node in owner for value in node.outputs)
        for value in (*made, *owner.initializers.values()):
            if value.name in wanted and value not in keep:
                value.name = f"{value.name}_inner"

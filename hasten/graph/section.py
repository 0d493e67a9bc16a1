"""A piece of a graph as a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.graph import Graph


def section(graph: Graph, start: str | None, ends: Sequence[str]) -> Graph:
    """What lies between float values of the main graph: ``start`` comes in, ``ends`` go out.

    start: None where only the model's inputs come in; those that are read behind it come in as well.
    Weights are shared with the graph until they are replaced.
    """
    piece = graph.copy()
    main = piece.ir_model.graph
    values = {str(v.name): v for node in main for v in node.outputs}
    values |= {str(v.name): v for v in main.inputs}
    main.outputs.clear()
    main.outputs.extend(values[name] for name in ends)
    if start is not None:
        cut = values[start]
        given = ir.Value(name=start, type=ir.TensorType(ir.DataType.FLOAT), shape=cut.shape)
        cut.name = f"{start}.cut"
        cut.replace_all_uses_with(given)
        main.inputs.append(given)
    passes.RemoveUnusedNodesPass()(piece.ir_model)
    for value in list(main.inputs):
        if not value.uses() and not value.is_graph_output():
            main.inputs.remove(value)
    return piece

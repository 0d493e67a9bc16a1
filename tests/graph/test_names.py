"""Every node gets a name of its own, and keeps it."""

import onnx.parser
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.names import layer_name, name_nodes


def graph():
    model = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
      tested (float[2] x, bool[1] c) => (float[2] y) {
        a = Relu(x) b = Relu(a) d = Relu(b)
        y = If(c) <then_branch = yes () => (float[2] p) { p = Neg(d) },
                   else_branch = no () => (float[2] q) { q = Abs(d) }> }""")
    for node, name in zip(model.graph.node, ("first", "", "first", "branch"), strict=True):
        node.name = name
    return Graph(ir.serde.deserialize_model(model))


def names(made):
    return [node.name for owner in made.ir_model.graphs() for node in owner]


def test_names_become_unique_and_stay():
    made = graph()
    assert name_nodes(made) == 4
    assert names(made) == ["first", "Relu:b", "first#2", "branch", "Neg:p", "Abs:q"]
    assert name_nodes(made) == 0


def test_a_given_name_is_not_taken_away():
    made = graph()
    made.ir_model.graph[3].name = "Relu:b"
    name_nodes(made)
    assert made.ir_model.graph[3].name == "Relu:b"
    assert made.ir_model.graph[1].name == "Relu:b#2"


def test_the_name_of_an_unnamed_layer():
    made = graph()
    assert [layer_name(node) for node in made.ir_model.graph] == ["first", "Relu:b", "first", "branch"]

"""Shapes follow from the signature, or are observed in one run."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from hasten.core.errors import MethodError
from hasten.graph import Graph
from hasten.graph.shapes import infer, observed_shapes, refresh


def graph(text, **weights):
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21, "other" : 1]> tested {text}')
    for name, array in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return Graph(ir.serde.deserialize_model(model))


def shapes(made):
    return {
        v.name: None if v.shape is None else [d if isinstance(d, int) else d.value for d in v.shape]
        for node in made.ir_model.graph
        for v in node.outputs
    }


def test_static_shapes_are_inferred():
    made = infer(
        graph(
            "(float[n,6,8] x) => (float[a,b,c] y) { m = MatMul(x, w) y = Relu(m) }",
            w=np.zeros((8, 3), np.float32),
        )
    )
    assert shapes(made)["m"] == ["n", 6, 3]


def test_the_given_graph_is_left_alone():
    made = graph("(float[n,6] x) => (float[a,b] y) { m = Relu(x) y = Relu(m) }")
    infer(made)
    assert shapes(made)["m"] is None


def test_stale_shapes_are_not_believed():
    made = graph("(float[n,6] x) => (float[a,b] y) <float[7,7] m> { m = Relu(x) y = Relu(m) }")
    assert shapes(made)["m"] == [7, 7]
    assert shapes(infer(made))["m"] == ["n", 6]


def test_negative_sizes_are_unknown_ones():
    made = graph("(float[2,6] x) => (float[a,b] y) { m = Relu(x) y = Relu(m) }")
    made.ir_model.graph.inputs[0].shape = ir.Shape([-1, 6])
    inferred = infer(made)
    assert inferred.inputs[0].shape == (None, 6)
    assert shapes(inferred)["m"][1] == 6


def test_unknown_operators_have_unknown_shapes():
    made = infer(graph("(float[n,6] x) => (float[a,b] y) <float[3,3] m> { m = other.Thing(x) y = Relu(m) }"))
    assert shapes(made)["m"] is None


def test_the_length_of_a_target_is_a_rank():
    made = infer(
        graph(
            "(float[n,6] x, int64[3] s) => (float[a,b,c] y) { r = Reshape(x, s) t = Softmax(r) y = Relu(t) }"
        )
    )
    assert len(shapes(made)["t"]) == 3


def test_hostile_sizes_do_no_harm():
    huge = np.asarray([2**62, 2**62, 2**62])
    made = infer(graph("(float[n,6] x) => (float y) { c = ConstantOfShape(s) y = ReduceSum(c) }", s=huge))
    assert shapes(made)["c"] == huge.tolist()


def test_a_graph_that_cannot_be_written_is_an_error():
    made = graph("(float[n,6] x) => (float[a,b] y) { y = Relu(x) }")
    made.ir_model.graph.outputs[0].type = ir.TensorType(None)
    with pytest.raises(MethodError, match="cannot be written"):
        infer(made)


def test_large_weights_are_not_copied():
    made = graph(
        "(float[n,512] x) => (float[a,b] y) { y = MatMul(x, w) }", w=np.zeros((512, 512), np.float32)
    )
    tensor = made.weights["w"].const_value
    assert infer(made).weights["w"].const_value is tensor


def test_scalars_and_constant_nodes_have_shapes():
    made = graph(
        """(float[n,6] x) => (float[a] y) {
      k = Constant<value = float[600] {"""
        + ", ".join(["0"] * 600)
        + """}>()
      m = ReduceSum<keepdims=0>(x) y = Add(m, k) }"""
    )
    found = shapes(infer(made))
    assert found["m"] == []
    assert found["k"] == found["y"] == [600]


def test_branches_have_shapes_of_their_own():
    made = infer(
        graph(
            """(float[n,6] x, bool[1] c) => (float[a,b] y) {
              y = If(c) <then_branch = yes () => (float[k,l] p) { h = Relu(x) p = Identity(h) },
                         else_branch = no () => (float[k,l] q) { h = Transpose(x) q = Identity(h) }> }"""
        )
    )
    found = [
        v.shape for owner in made.ir_model.graphs() for node in owner for v in node.outputs if v.name == "h"
    ]
    assert [[d if isinstance(d, int) else d.value for d in shape] for shape in found] == [["n", 6], [6, "n"]]


def test_refreshing_sees_every_change():
    made = graph("(float[n,6] x) => (float[a,b] y) { m = Transpose<perm=[0,1]>(x) y = Relu(m) }")
    refresh(made)
    assert shapes(made)["m"] == ["n", 6]
    stored = made.ir_model.graph[0].outputs[0].shape
    refresh(made)
    assert made.ir_model.graph[0].outputs[0].shape is stored
    made.ir_model.graph[0].attributes["perm"] = ir.AttrInt64s("perm", [1, 0])
    refresh(made)
    assert shapes(made)["m"] == [6, "n"]
    made.ir_model.graph.inputs[0].shape = ir.Shape([2, 6])
    refresh(made)
    assert shapes(made)["m"] == [6, 2]


def test_observed_shapes():
    made = graph(
        """(float[n,l,6] x, float[n,l] v) => (float[a,b] y) {
          k = NonZero(v) r = Reshape(x, s) m = MatMul(r, w) p, q = TopK(m, one) y = Relu(p) }""",
        w=np.zeros((6, 4), np.float32),
        s=np.asarray([-1, 6]),
        one=np.asarray([1]),
    )
    values = np.asarray([[0, 1, 0], [1, 1, 0]], np.float32)
    found = observed_shapes(made, {"x": np.zeros((2, 3, 6), np.float32), "v": values})
    assert found["k"] == (2, 3)
    assert found["r"] == (6, 6)
    assert found["m"] == (6, 4)
    assert found["p"] == found["q"] == found["y"] == (6, 1)
    assert found["x"] == (2, 3, 6)
    assert found["w"] == (6, 4)


def test_values_with_confusing_names_are_observed():
    made = graph("(float[n] x) => (float[a] y) { a = Relu(x) b = Neg(a) y = Abs(b) }")
    values = {v.name: v for node in made.ir_model.graph for v in node.outputs}
    values["b"].name = "a.shape"
    assert observed_shapes(made, {"x": np.zeros(3, np.float32)})["a.shape"] == (3,)


def test_sequences_are_passed_over():
    made = graph(
        "(float[n,6] x) => (float[a,b] y) "
        "{ s = SplitToSequence<axis=1>(x, two) y = ConcatFromSequence<axis=1>(s) }",
        two=np.asarray(2),
    )
    found = observed_shapes(made, {"x": np.zeros((3, 6), np.float32)})
    assert found["y"] == (3, 6)
    assert "s" not in found


def test_a_graph_of_sequences_alone_has_nothing_to_observe():
    made = graph("(seq(float[n]) x) => (seq(float[n]) y) { y = Identity(x) }")
    assert observed_shapes(made, {"x": [np.zeros(3, np.float32)]}) == {}


def test_a_graph_that_does_not_run_is_an_error():
    made = graph("(float[n,6] x) => (float[a,b] y) { y = MatMul(x, x) }")
    with pytest.raises(MethodError, match="ONNX Runtime"):
        observed_shapes(made, {"x": np.zeros((3, 6), np.float32)})

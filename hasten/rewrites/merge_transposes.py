"""Merge and cancel transpositions.

Algebra: T_q(T_p(x)) = T_{p∘q}(x), nothing where that keeps the order; T_q(f(T_p(x))) = T_{p∘q}(f(x)) for f
elementwise; and the way PyTorch's exporter writes the transposition of a stack of matrices,
Reshape(T₀₂₁(Reshape(x, [-1, a, b])), [.., b, a]), is a Transpose of the last two axes.

Check: nothing else uses the values between the two; the sizes of the reshaped stacks are provably the same.
"""

from __future__ import annotations

import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import sole_user
from hasten.rewrites.dimensions import Dimensions

_ELEMENTWISE = frozenset(
    {
        "Abs",
        "Cast",
        "Ceil",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Selu",
        "Sigmoid",
        "Sign",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Tanh",
    }
)


def apply(graph: Graph) -> Findings:
    """Merge every pair, in place."""
    editor = Editor(graph, shapes=True)
    dims = Dimensions(editor.main)
    stacks = [(node, stack) for node in editor.nodes("Reshape") if (stack := _stack(node, dims)) is not None]
    for node, (x, count) in stacks:
        perm = [*range(count - 2), count - 1, count - 2]
        made = editor.replace(node, "Transpose", [x], {"perm": perm})
        editor.changed(made, "a transposition of a stack of matrices, written with two Reshapes")
    for node in editor.nodes("Transpose"):
        _merge(editor, node)
    return editor.findings


def _merge(editor: Editor, node: ir.Node) -> None:
    """Merge the node with a Transpose before it, over elementwise operators."""
    above: list[ir.Node] = []
    value = node.inputs[0]
    while True:
        before = value.producer() if value is not None else None
        if before is None or before.domain or value is None:
            return
        if above and sole_user(value) is None:
            return
        if before.op_type == "Transpose":
            break
        if before.op_type not in _ELEMENTWISE or sole_user(value) is None:
            return
        above.append(before)
        value = before.inputs[0]
    first, second = _perm(before), _perm(node)
    x = before.inputs[0]
    if first is None or second is None or len(first) != len(second) or x is None:
        return
    perm = [first[axis] for axis in second]
    if above:
        above[-1].replace_input_with(0, x)
        for inner in above:
            value = inner.outputs[0]
            value.shape = None
            # Who looks for the value by its name would find it laid out differently.
            value.name = editor.unique(f"{value.name}.turned")
        source = above[0].outputs[0]
    else:
        source = x
    if perm == sorted(perm) and editor.bypass(node, source):
        editor.changed(node, "cancelled with the Transpose before it")
        return
    node.replace_input_with(0, source)
    node.attributes["perm"] = ir.AttrInt64s("perm", perm)
    editor.changed(node, "merged with the Transpose before it")


def _perm(node: ir.Node) -> list[int] | None:
    perm = node.attributes.get_ints("perm", None)
    return None if perm is None else list(perm)


def _stack(node: ir.Node, dims: Dimensions) -> tuple[ir.Value, int] | None:
    """The x, and its rank, that this Reshape ends the transposition of."""
    middle = node.inputs[0].producer() if node.inputs[0] is not None else None
    if middle is None or middle.op_type != "Transpose" or _perm(middle) != [0, 2, 1]:
        return None
    first = middle.inputs[0].producer() if middle.inputs[0] is not None else None
    if first is None or first.op_type != "Reshape" or first.inputs[0] is None:
        return None
    x = first.inputs[0]
    have, between, result = (dims.shape(v) for v in (x, first.outputs[0], node.outputs[0]))
    if have is None or between is None or result is None or len(have) < 3 or len(between) != 3:
        return None
    turned = (*have[:-2], have[-1], have[-2])
    if None in have or between[1:] != have[-2:] or result != turned:
        return None
    return x, len(have)

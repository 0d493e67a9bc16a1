"""Replace computed shapes by constants.

Algebra: in the target of a Reshape a size that the input has at the same place is written 0 ("copy"), one
that cannot be known beforehand is written -1 (the number of elements determines it), the rest are numbers:
Reshape(x, [Shape(x)₀, 12, Shape(y)₁]) = Reshape(x, [0, 12, -1]). A computed vector whose elements are all
numbers is a constant. Expand(x, s) = x where every element of s is 1 or x's own size.

Check: at most one element is neither a number nor copied; no size of the input is known to be zero, and where
-1 is new, none of the copied ones can become zero either (which would leave the -1 undetermined): they stem
from the graph's inputs and not, say, from the number of boxes found.

Exporters of dynamic shapes compute each target from Shape, Gather, Slice and Concat; runtimes run these one
by one on every inference, and shape inference, on which other rewrites depend, stops at them.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import constant, given, rank
from hasten.rewrites.dimensions import Dimensions
from hasten.rewrites.elements import Element, Vector

ROUNDS = 16
"""One constant makes ranks known on which others depend; in practice six rounds suffice."""


def apply(graph: Graph) -> Findings:
    """Simplify all shape computations, in place.

    Targets that need a new -1 wait until nothing else can be done: a size that is unknown in one round may
    be known in the next, and a copied size says more than a -1.
    """
    findings = Findings()
    free = False
    for _ in range(ROUNDS):
        made = _round(graph, new_wildcards=free)
        findings.sites.extend(made.sites)
        if free and not made.sites:
            break
        free = not made.sites
    return findings


def _round(graph: Graph, *, new_wildcards: bool) -> Findings:
    editor = Editor(graph, shapes=True)
    dims = Dimensions(editor.main)
    found = [(node, _constant_target(node, dims, new_wildcards)) for node in editor.nodes("Reshape")]
    whole = [node for node in editor.nodes("Expand") if _expands_nothing(node, dims)]
    numbers = [(node, vector) for node, vector in _computed(editor, dims) if all_numbers(vector)]
    for node, vector in numbers:
        array = np.asarray(
            vector.elements, dtype=node.outputs[0].dtype.numpy() if node.outputs[0].dtype else np.int64
        )
        value = editor.constant(array.reshape(() if vector.scalar else -1), f"{node.outputs[0].name}.known")
        editor.changed(node, "a computed shape became a constant")
        node.outputs[0].replace_all_uses_with(value)
        editor.remove(node)
    for node, target in found:
        if target is not None and node.graph is not None and constant(given(node, 1)) is None:
            node.replace_input_with(
                1, editor.constant(np.asarray(target, dtype=np.int64), f"{node.outputs[0].name}.shape")
            )
            node.attributes.pop("allowzero", None)
            editor.changed(node, "its computed target became a constant")
    for node in whole:
        x = node.inputs[0]
        if x is not None and editor.bypass(node, x):
            editor.changed(node, "removed: it expanded nothing")
    return editor.findings


def all_numbers(vector: Vector) -> bool:
    """Whether every element is known."""
    return all(isinstance(element, int) for element in vector.elements)


def _computed(editor: Editor, dims: Dimensions) -> list[tuple[ir.Node, Vector]]:
    """Nodes whose result is a shape vector, with what is known of it."""
    found = []
    for node in editor.nodes("Shape", "Gather", "Slice", "Concat", "Cast", "Squeeze", "Unsqueeze", "Reshape"):
        vector = dims.vector(node.outputs[0])
        if vector is not None and node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            found.append((node, vector))
    return found


def _constant_target(node: ir.Node, dims: Dimensions, new_wildcards: bool) -> list[int] | None:
    """The constant target that means the same, or None."""
    x, vector = node.inputs[0], dims.vector(given(node, 1))
    if x is None or vector is None or vector.scalar:
        return None
    if node.attributes.get_int("allowzero", 0) and 0 in vector.elements:
        return None
    sizes = dims.shape(x)
    if sizes is not None and 0 in sizes:
        return None
    target = [written(element, i, sizes) for i, element in enumerate(vector.elements)]
    if target.count(-1) == 1 and -1 not in vector.elements:
        copied = [element for element, written in zip(vector.elements, target, strict=True) if written == 0]
        if not new_wildcards or not all(element == 0 or dims.is_fed(element) for element in copied):
            return None
    return target if target.count(-1) <= 1 else None


def written(
    element: Element, index: int, sizes: tuple[Element, ...] | None, *, prefer_copy: bool = False
) -> int:
    """The element as an entry of a Reshape's target, the input having these sizes: a number, 0 or -1."""
    copied = element is not None and sizes is not None and index < len(sizes) and sizes[index] == element
    if isinstance(element, int) and not (prefer_copy and copied):
        return element
    return 0 if copied else -1


def _expands_nothing(node: ir.Node, dims: Dimensions) -> bool:
    x, vector = node.inputs[0], dims.vector(given(node, 1))
    have = rank(x)
    if x is None or vector is None or have is None or len(vector.elements) > have:
        return False
    sizes = dims.shape(x) or ()
    tail = sizes[have - len(vector.elements) :]
    return all(
        want is not None and want in (1, size) for want, size in zip(vector.elements, tail, strict=True)
    )

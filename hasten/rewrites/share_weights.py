"""Store equal tensors once.

Algebra: none. Tensors are shared whose type, shape and bytes are the same.

Check: a float vector that is filled with one number (zeros, ones) is not shared: two untrained biases are
equal by accident, and training one must not change the other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import onnx_ir as ir

from hasten.core.record import Site
from hasten.graph import Graph
from hasten.graph.editor import Editor, Findings
from hasten.graph.reading import pinned


def apply(graph: Graph) -> Findings:
    """Share all equal tensors, in place."""
    editor = Editor(graph)
    share_tensors(editor, lambda tensor: True)
    return editor.findings


def share_tensors(editor: Editor, wanted: Callable[[ir.TensorProtocol], bool]) -> None:
    """Share those of the equal tensors that are wanted."""
    alike: dict[tuple[ir.DataType, tuple[int, ...], bytes], list[ir.Value]] = {}
    for value in list(editor.main.initializers.values()):
        tensor = value.const_value
        if tensor is not None and not pinned(value) and not tensor.dtype.is_string() and wanted(tensor):
            first = tensor.numpy().reshape(-1)[:_GLANCE].tobytes()
            alike.setdefault((tensor.dtype, tuple(tensor.shape.numpy()), first), []).append(value)
    for values in alike.values():
        if len(values) > 1:
            _share_equal(editor, values)


_GLANCE = 16
"""Elements that are compared before whole tensors are."""


def _share_equal(editor: Editor, values: list[ir.Value]) -> None:
    kept: dict[bytes, ir.Value] = {}
    for value in values:
        tensor = value.const_value
        assert tensor is not None
        data = tensor.tobytes()
        if tensor.dtype.is_floating_point() and tensor.size > 1 and _is_filled(data, tensor.size):
            continue
        first = kept.setdefault(hashlib.sha256(data).digest(), value)
        if first is value or not value.name:
            continue
        value.replace_all_uses_with(first)
        editor.main.initializers.pop(value.name)
        site = Site(name=value.name, op_type="initializer", what="removed: another one is equal")
        editor.findings.sites.append(site)


def _is_filled(data: bytes, count: int) -> bool:
    width = len(data) // count
    return width > 0 and data == data[:width] * count

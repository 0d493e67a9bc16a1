"""The nodes that decode stored weights.

Two forms. A matrix product with linear codes of 4 or 8 bits gets DequantizeLinear, which ONNX Runtime and
OpenVINO merge into a product on integers. Everything else is written with Cast, Gather, Sub, Mul and Add,
which both runtimes compute once when they open the model: ONNX Runtime would carry out a DequantizeLinear in
front of any other operator, and of any other type, at every inference, and cannot merge one inside a branch
with constants from outside.
"""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx_ir as ir

from hasten.core.data import Array
from hasten.graph.editor import Editor
from hasten.methods._stored.schemes import Stored, narrow
from hasten.methods._stored.weights import Unfit, Weight
from hasten.numerics.codes import PER_BYTE, pack, unpacked
from hasten.numerics.floats import e8m0_table

_FLOAT = int(ir.DataType.FLOAT)
_INT32 = int(ir.DataType.INT32)
_NODES_BYTES = 512
"""About what names and nodes of one decoding add to the file."""


class Decoder:
    """Writes the decoding of weights into one graph; tables that several weights use are stored once."""

    def __init__(self, editor: Editor) -> None:
        self._editor = editor
        self._tables: dict[str, ir.Value] = {}

    def write(self, weight: Weight, stored: Stored) -> tuple[bool, int]:
        """Let the decoded value take the constant's place.

        Returns whether the runtime may keep the codes, and how many bytes the codes and their parameters
        take. Raises Unfit where the file would not get smaller.
        """
        kept = _kept(weight, stored) and all(user.graph is self._editor.main for user in weight.users)
        packed = not kept and stored.bits == 2 and stored.codes.size % PER_BYTE == 0
        codes = pack(stored.codes) if packed else narrow(stored.codes, stored.bits)
        zero = None if stored.zero is None else narrow(stored.zero, stored.bits)
        parts = (codes, zero, stored.scale, stored.tensor_scale, stored.exponents, stored.mean)
        size = sum(_bytes(part) for part in parts if part is not None)
        before = 4 * weight.size
        if size + _NODES_BYTES >= before:
            raise Unfit(f"its {before} bytes would not get fewer")
        owner = weight.value.graph
        assert owner is not None
        first = next(iter(owner))
        if kept:
            real = self._dequantized(first, weight, stored, codes, zero)
        else:
            real = self._decoded(first, weight, stored, codes, zero)
        real.shape, real.type = weight.value.shape, weight.value.type
        weight.value.replace_all_uses_with(real)
        del owner.initializers[weight.name]
        return kept, size

    def _dequantized(
        self, first: ir.Node, weight: Weight, stored: Stored, codes: Array, zero: Array | None
    ) -> ir.Value:
        blocks = {"axis": 1 - weight.axis, "block_size": stored.group}
        attributes = {"axis": weight.axis} if stored.group is None else blocks
        assert stored.scale is not None
        inputs = [
            self._editor.constant(codes, f"{weight.name}.codes"),
            self._editor.constant(stored.scale, f"{weight.name}.scale"),
        ]
        if zero is not None:
            inputs.append(self._editor.constant(zero, f"{weight.name}.zero_point"))
        known = {name: number for name, number in attributes.items() if number is not None}
        return self._editor.insert(first, "DequantizeLinear", inputs, known, name=f"{weight.name}.decoded")

    def _decoded(
        self, first: ir.Node, weight: Weight, stored: Stored, codes: Array, zero: Array | None
    ) -> ir.Value:
        view = _view(weight, stored.group)

        def node(op_type: str, *inputs: ir.Value, to: int | None = None) -> ir.Value:
            attributes = {} if to is None else {"to": to}
            return self._editor.insert(
                first, op_type, inputs, attributes, name=f"{weight.name}.decode.{op_type}"
            )

        def kept(array: Array, what: str) -> ir.Value:
            return self._editor.constant(array, f"{weight.name}.{what}")

        def reshaped(value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
            return node("Reshape", value, self._shared(f"shape.{shape}", lambda: np.asarray(shape, np.int64)))

        if codes.ndim == 1:  # packed
            signed = stored.codes.dtype.kind == "i"
            table = self._shared(f"two_bits.{signed}", lambda: unpacked(signed=signed))
            value = node("Gather", table, node("Cast", kept(codes, "codes"), to=_INT32))
            value = reshaped(value, view)
        else:
            value = kept(codes.reshape(view), "codes")
        if stored.lookup is not None:
            table = self._shared(stored.lookup.tobytes().hex(), lambda: _known(stored.lookup))
            value = node("Gather", table, node("Cast", value, to=_INT32))
        else:
            value = node("Cast", value, to=_FLOAT)
        if zero is not None:
            real = node("Cast", kept(_broadcastable(zero, weight, stored.group), "zero_point"), to=_FLOAT)
            value = node("Sub", value, real)
        if stored.exponents is not None:
            bytes_ = kept(_broadcastable(stored.exponents, weight, stored.group), "exponents")
            table = self._shared("e8m0", e8m0_table)
            value = node("Mul", value, node("Gather", table, node("Cast", bytes_, to=_INT32)))
        if stored.scale is not None:
            scale = kept(_broadcastable(stored.scale, weight, stored.group), "scale")
            if stored.tensor_scale is not None:
                scale = node("Mul", node("Cast", scale, to=_FLOAT), kept(stored.tensor_scale, "tensor_scale"))
            value = node("Mul", value, scale)
        if stored.mean is not None:
            value = node("Add", value, kept(_broadcastable(stored.mean, weight, stored.group), "mean"))
        return value if view == weight.shape else reshaped(value, weight.shape)

    def _shared(self, key: str, make: Callable[[], Array]) -> ir.Value:
        if key not in self._tables:
            self._tables[key] = self._editor.constant(make(), "decode.table")
        return self._tables[key]


def _kept(weight: Weight, stored: Stored) -> bool:
    """Whether runtimes have a product on these codes."""
    linear = stored.lookup is None and stored.mean is None and stored.codes.dtype.kind in "iu"
    return weight.product and linear and stored.bits > 2


def _view(weight: Weight, group: int | None) -> tuple[int, ...]:
    """The shape in which scales broadcast: the constant's own, or its matrix with blocks on an axis apart."""
    if group is None:
        return weight.shape
    axis = 1 - weight.axis
    shape = list(weight.matrix.shape)
    shape[axis : axis + 1] = [weight.depth // group, group]
    return tuple(shape)


def _broadcastable(parameter: Array, weight: Weight, group: int | None) -> Array:
    """A parameter of channels or blocks in a shape that broadcasts with ``_view``."""
    if group is not None:
        return np.expand_dims(parameter, 2 - weight.axis)
    if weight.axis:
        return parameter.reshape(1, -1)
    ones = len(weight.shape) - weight.lead
    return parameter.reshape(*weight.shape[: weight.lead], *[1] * ones)


def _known(array: Array | None) -> Array:
    assert array is not None
    return array


def _bytes(array: Array) -> int:
    halves = array.dtype in {np.dtype(ml_dtypes.int4), np.dtype(ml_dtypes.uint4)}
    return (array.size + 1) // 2 if halves else array.nbytes

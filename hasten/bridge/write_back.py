"""Trained weights back into the graph, by initializer name."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch

from hasten.bridge.dtypes import from_numpy, to_numpy
from hasten.core.errors import ModelError
from hasten.graph import Graph


def write_back(graph: Graph, weights: Mapping[str, torch.Tensor]) -> Graph:
    """A copy of the graph with the given weights; names are the initializers'.

    A weight that holds the same bits as before keeps its very tensor, so that what was not trained stays
    the same to the byte. Raises ModelError for an unknown name or a changed shape.
    """
    changed = graph.copy()
    places = stored(changed.ir_model)
    for name, tensor in weights.items():
        if name not in places:
            raise ModelError(f"the graph has no weight {name!r} to write back to")
        before = places[name].tensor
        assert before is not None  # the module refused weights without a value
        if tuple(tensor.shape) != tuple(before.shape.numpy()):
            raise ModelError(
                f"the weight {name!r} has the shape {tuple(before.shape.numpy())}, not {tuple(tensor.shape)}"
            )
        same = tensor.detach().cpu()
        if not _same_bits(same, from_numpy(before.numpy())):
            array = to_numpy(same, before.dtype)
            places[name].put(ir.tensor(array, dtype=before.dtype, name=name))
    return changed


def stored(model: ir.Model) -> dict[str, _Initializer | _Constant]:
    """Where every stored tensor lies, by name: initializers, and Constant nodes under their output's name."""
    places: dict[str, _Initializer | _Constant] = {}
    for graph in model.graphs():
        for value in graph.initializers.values():
            places[str(value.name)] = _Initializer(value)
        for node in graph:
            if node.op_type == "Constant" and _CONSTANT_ATTRIBUTES & node.attributes.keys():
                places[str(node.outputs[0].name)] = _Constant(node)
    return places


_CONSTANT_ATTRIBUTES = frozenset({"value", "value_float", "value_floats"})


class _Initializer:
    """A stored tensor that is an initializer."""

    def __init__(self, value: ir.Value) -> None:
        self._value = value

    @property
    def tensor(self) -> ir.TensorProtocol | None:
        return self._value.const_value

    def put(self, tensor: ir.TensorProtocol) -> None:
        self._value.const_value = tensor


class _Constant:
    """A stored tensor that is the attribute of a Constant node: a tensor, a float or a list of floats."""

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        (self._name,) = _CONSTANT_ATTRIBUTES & node.attributes.keys()

    @property
    def tensor(self) -> ir.TensorProtocol | None:
        attribute = self._node.attributes[self._name]
        if self._name == "value":
            return attribute.as_tensor()
        return ir.tensor(attribute.value, dtype=ir.DataType.FLOAT)

    def put(self, tensor: ir.TensorProtocol) -> None:
        del self._node.attributes[self._name]
        self._name = "value"
        self._node.attributes["value"] = ir.AttrTensor("value", tensor)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape and dtype are equal to the bit (NaN and the sign of zero included)."""
    return one.dtype == other.dtype and to_numpy(one).tobytes() == to_numpy(other).tobytes()

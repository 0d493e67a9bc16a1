"""The one representation every method works on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes

from hasten.core.errors import ModelError, OutputError
from hasten.core.tensor import TensorSpec
from hasten.graph.packed import is_packed, pack

PROTOBUF_LIMIT_BYTES = 2_000_000_000 - (64 << 20)
"""What a model in one message may weigh: a protobuf message holds at most 2 GiB."""
_INLINE_BYTES = 512 << 20
"""Weights of fewer bytes are written inside the model's own file."""


class Graph:
    """An ONNX model held by ``onnx_ir``, with the questions hasten asks of it.

    ``ir_model`` is the model itself; methods copy the graph (``copy``) and edit the copy's ``ir_model``.
    Initializers listed among the graph's inputs (IR version 3) are not inputs here: a caller feeds
    ``inputs`` only.
    """

    def __init__(self, ir_model: ir.Model) -> None:
        self.ir_model = ir_model

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What must be fed, in order."""
        initializers = self.ir_model.graph.initializers
        return tuple(_spec(v) for v in self.ir_model.graph.inputs if v.name not in initializers)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What comes out, in order."""
        return tuple(_spec(v) for v in self.ir_model.graph.outputs)

    @property
    def opset(self) -> int:
        """Version of the default operator set (0 when only other domains are imported)."""
        return self.ir_model.opset_imports.get("", 0)

    @property
    def weights(self) -> Mapping[str, ir.Value]:
        """The initializers by name."""
        return self.ir_model.graph.initializers

    @property
    def parameters(self) -> int:
        """Number of elements of all stored tensors."""
        return sum(tensor.size for tensor in self.tensors())

    @property
    def weight_bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> Iterator[ir.TensorProtocol]:
        """Every stored tensor: initializers and values of Constant nodes, subgraphs included."""
        for graph in self.ir_model.graphs():
            yield from (v.const_value for v in graph.initializers.values() if v.const_value is not None)
            for node in graph:
                value = node.attributes.get("value") if node.op_type == "Constant" else None
                if value is not None and value.type == ir.AttributeType.TENSOR:
                    yield value.as_tensor()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the serialized model, weights included."""
        digest = hashlib.sha256()
        digest.update(ir.serde.serialize_model(self.without_weights()).SerializeToString(deterministic=True))
        for name in sorted(self.weights):
            tensor = self.weights[name].const_value
            if tensor is not None:
                digest.update(f"{name}:{tensor.dtype}:{tensor.shape}".encode())
                digest.update(_content(tensor))
        return digest.hexdigest()

    def without_weights(self) -> ir.Model:
        """A copy of the model whose initializers are empty: all of its structure, little of its size."""
        bare = self.ir_model.clone()
        for value in bare.graph.initializers.values():
            value.const_value = ir.tensor([], dtype=ir.DataType.FLOAT, name=value.name)
        return bare

    def copy(self) -> Graph:
        """An independent graph; weights are shared until replaced, since tensors are immutable."""
        return Graph(self.ir_model.clone())

    def to_bytes(self) -> bytes:
        """The serialized model with all its weights inside (models below 2 GiB)."""
        return bytes(ir.serde.serialize_model(self.ir_model).SerializeToString())

    def write(self, path: str | Path) -> tuple[Path, ...]:
        """Write the model as ``.onnx``, whole or not at all; returns the files written.

        A name that ends in ``.onnx.zst`` gives one compressed file (``hasten.graph.packed``). Other models
        of 512 MiB and more get their weights in ``<name>.data`` beside them: one message of all would be in
        memory three times while it is written, and cannot be larger than 2 GiB. Raises OutputError.
        """
        path = Path(path)
        if is_packed(path):
            if self.weight_bytes > PROTOBUF_LIMIT_BYTES:
                raise OutputError(
                    f"{path}: a compressed file holds at most 2 GiB of weights; write an .onnx file"
                )
            pack(self.to_bytes(), path)
            return (path,)
        partial = path.with_name(f".{path.name}.partial")
        heavy = self.weight_bytes > _INLINE_BYTES
        data = path.name + ".data"
        try:
            ir.save(self.ir_model, partial, external_data=data if heavy else None)
            os.replace(partial, path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error
        finally:
            partial.unlink(missing_ok=True)
        return (path, path.with_name(data)) if heavy else (path,)

    @classmethod
    def open(cls, path: str | Path) -> Graph:
        """Open an ``.onnx`` file hasten itself wrote; for a user's file go through ``hasten.read``."""
        try:
            return cls(ir.load(path))
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot open {path}: {error}") from error

    def to_torch(self) -> Any:
        """This graph as a ``torch.nn.Module``; its ``to_graph()`` brings trained weights back, by name.

        ``forward`` takes the inputs in the graph's order and returns its output, or a tuple of several.
        Raises ModelError for operators the bridge lacks, Unavailable without PyTorch. See ``hasten.bridge``.
        """
        # The bridge stands on the graph, so the graph knows it by name only, when it is asked for.
        return import_module("hasten.bridge").to_torch(self)

    def stripped(self) -> Graph:
        """A copy without doc strings and metadata, which exporters fill with stack traces and local paths."""
        clean = self.copy()
        passes.ClearMetadataAndDocStringPass()(clean.ir_model)
        return clean

    def __repr__(self) -> str:
        ins, outs = ", ".join(map(str, self.inputs)), ", ".join(map(str, self.outputs))
        return (
            f"Graph({ins} -> {outs}; {self.ir_model.graph.num_nodes()} nodes, {self.parameters:,} parameters)"
        )


def _content(tensor: ir.TensorProtocol) -> bytes:
    """The elements as bytes; strings each with its length before it, so that no two lists read the same."""
    if not isinstance(tensor, ir.StringTensor):
        return tensor.tobytes()
    return b"".join(len(text).to_bytes(8, "little") + text for text in tensor.string_data())


def _spec(value: ir.Value) -> TensorSpec:
    dtype = "unknown" if value.dtype is None else dtype_name(value.dtype)
    if value.shape is None:
        return TensorSpec(value.name or "", dtype, None)
    axes = tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return TensorSpec(value.name or "", dtype, axes)


def dtype_name(dtype: ir.DataType) -> str:
    """Numpy's name of an ONNX element type; ``str`` for strings."""
    if dtype == ir.DataType.STRING:
        return "str"
    if dtype == ir.DataType.UNDEFINED:
        return "unknown"
    return str(dtype.numpy())

"""What the weights claim to be and where they claim to lie."""

from __future__ import annotations

from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .parts import NAMES, SIZES, some_graph, some_tensor

_LOCATIONS = (
    "", ".", "..", "/dev/zero", "/dev/stdin", "/proc/self/mem", "../model.onnx", "model.onnx", "weights.bin",
    "a/../b", "C:\\x", "\0", "*/_ORT_MEM_ADDR_/*", "file:///etc/passwd", "n" * 5000, "é\u202e",
)  # fmt: skip


def drop_weight(rng: Random, model: onnx.ModelProto) -> None:
    weights = some_graph(rng, model).initializer
    if weights:
        del weights[rng.randrange(len(weights))]


def duplicate_weight(rng: Random, model: onnx.ModelProto) -> None:
    weights = some_graph(rng, model).initializer
    if weights:
        weights.append(rng.choice(weights))


def rename_weight(rng: Random, model: onnx.ModelProto) -> None:
    weights = some_graph(rng, model).initializer
    if weights:
        rng.choice(weights).name = rng.choice((*NAMES, rng.choice(weights).name))


def absurd_size(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None and tensor.dims:
        tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice(SIZES)


def absurd_rank(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None:
        tensor.dims.extend([rng.choice((0, 1, 1, 2, 1 << 20))] * rng.choice((1, 2, 70, 2000)))


def other_shape(rng: Random, model: onnx.ModelProto) -> None:
    """The same number of elements in another shape: what the tensor holds still fits."""
    tensor = some_tensor(rng, model)
    if tensor is None:
        return
    dims = list(tensor.dims)
    made = rng.choice((dims[::-1], [*dims, 1], [1, *dims], [int(np.prod(dims, dtype=object))]))
    del tensor.dims[:]
    tensor.dims.extend(min(size, (1 << 63) - 1) for size in made)


def other_type(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None:
        tensor.data_type = rng.choice((*range(27), 77, -1, (1 << 31) - 1))


def same_width_type(rng: Random, model: onnx.ModelProto) -> None:
    """Another type of the same width: what the tensor holds still fits."""
    tensor = some_tensor(rng, model)
    widths = ((1, 6, 12), (7, 11, 13, 14), (4, 5, 10, 16), (2, 3, 9, 17, 18, 19, 20))
    if tensor is not None:
        peers = next((group for group in widths if tensor.data_type in group), (1,))
        tensor.data_type = rng.choice(peers)


def cut_data(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None:
        tensor.raw_data = tensor.raw_data[: rng.randrange(len(tensor.raw_data) + 1)]


def extend_data(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None:
        tensor.raw_data += b"\x7f" * rng.choice((1, 4, 1000))


def both_kinds_of_data(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None:
        tensor.float_data.extend([1.0] * rng.choice((1, 4)))
        tensor.int32_data.extend([rng.choice((1, -1, 1 << 30))] * rng.choice((0, 1)))
        tensor.string_data.extend([b"\xff\xfe"] * rng.choice((0, 1)))


def typed_data(rng: Random, model: onnx.ModelProto) -> None:
    """Small raw weights stored as numbers in the message instead."""
    tensor = some_tensor(rng, model)
    fields = {
        1: ("float_data", np.float32, float),
        6: ("int32_data", np.int32, int),
        7: ("int64_data", np.int64, int),
    }
    if tensor is None or tensor.data_type not in fields or len(tensor.raw_data) > 4096:
        return
    field, dtype, kind = fields[tensor.data_type]
    whole = len(tensor.raw_data) // np.dtype(dtype).itemsize * np.dtype(dtype).itemsize
    values = np.frombuffer(tensor.raw_data[:whole], dtype).astype(kind)
    tensor.ClearField("raw_data")
    getattr(tensor, field).extend(values.tolist())


def odd_values(rng: Random, model: onnx.ModelProto) -> None:
    """Weights that are not finite, or shapes and axes that point outside."""
    tensor = some_tensor(rng, model)
    if tensor is None or not tensor.raw_data:
        return
    pattern = rng.choice((b"\xff" * 8, b"\0\0\xc0\x7f" * 2, b"\0" * 7 + b"\x80", b"\0" * 8, b"\x01" * 8))
    count = len(tensor.raw_data)
    tensor.raw_data = (pattern * (count // 8 + 1))[:count]


def external_data(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is None:
        return
    tensor.data_location = TensorProto.EXTERNAL
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")
    numbers = ("0", "-1", "4096", str(1 << 62), "9" * 400, "1e3", "", "\u0663", " 8")
    keys = {"location": _LOCATIONS, "offset": numbers, "length": numbers, "checksum": ("x",), "\0": ("\0",)}
    for key in rng.sample(list(keys), k=rng.randrange(5)):
        tensor.external_data.add(key=key, value=rng.choice(keys[key]))


def edit_external_data(rng: Random, model: onnx.ModelProto) -> None:
    found = [entry for tensor in model.graph.initializer for entry in tensor.external_data]
    if found:
        entry = rng.choice(found)
        entry.value = rng.choice((*_LOCATIONS, *map(str, SIZES), entry.value + "0"))


def segment(rng: Random, model: onnx.ModelProto) -> None:
    tensor = some_tensor(rng, model)
    if tensor is not None:
        tensor.segment.begin, tensor.segment.end = rng.choice(SIZES), rng.choice(SIZES)


def sparse_weight(rng: Random, model: onnx.ModelProto) -> None:
    """A sparse tensor whose parts do not belong together."""
    graph = some_graph(rng, model)
    name = rng.choice(graph.initializer).name if graph.initializer else "s"
    values = numpy_helper.from_array(np.ones(rng.choice((0, 1, 3)), rng.choice((np.float32, np.int8))), name)
    places = rng.choice(
        (np.array([0]), np.array([[0, 1]]), np.array([-1, 9]), np.array([0.5]), np.array([], int))
    )
    dims = [rng.choice(SIZES) for _ in range(rng.randrange(4))]
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(places, "i"), dims)
    if rng.random() < 0.7:
        kept = [t for t in graph.initializer if t.name != name]
        copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
    graph.sparse_initializer.append(sparse)

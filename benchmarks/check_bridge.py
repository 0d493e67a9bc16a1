"""Is the bridge right on real models? Its outputs beside ONNX Runtime's, its gradients beside differences.

Usage: python -m benchmarks.check_bridge --models FOLDER [NAME]...

FOLDER/<name> holds model.onnx and data.npz (arrays named as the model's inputs). For each model it prints,
per output, the norm of the difference to ONNX Runtime over the norm of the output, and for weight elements
drawn at random the analytical gradient of a random projection of the outputs against its central difference,
both in double precision. A weight moved past a kink (of a ReLU, of a maximum) has no derivative to compare
with: where they differ, smaller steps are tried, and the number of elements that agree is printed too.
"""

from __future__ import annotations

import argparse
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from hasten.bridge import GraphModule, to_torch
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator

_Array = NDArray[Any]
ELEMENTS = 20
STEPS = (1e-5, 1e-6, 1e-7, 1e-8)
"""A weight's step, relative to the root mean square of its tensor; smaller ones cross fewer kinks."""
_ROUNDING = 1e-14
"""Relative error of a sum of products of a real model in double precision, generously."""
AGREES = 1e-4


@dataclass(frozen=True)
class Gradients:
    """Relative errors of the gradients of single weight elements."""

    errors: tuple[float, ...]

    def __str__(self) -> str:
        good = sum(error < AGREES for error in self.errors)
        median = float(np.median(self.errors))
        return (
            f"{good}/{len(self.errors)} agree within {AGREES:g}, "
            f"median {median:.1e}, worst {max(self.errors):.1e}"
        )


def rows_of(path: Path, name: str, count: int) -> _Array:
    """The first rows of one array of an ``.npz`` file, without reading the others."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(stream)
        shape = (min(count, shape[0]), *shape[1:])
        content = stream.read(int(np.prod(shape)) * dtype.itemsize)
    return np.frombuffer(content, dtype).reshape(shape).copy()


def differences(graph: Graph, module: GraphModule, feeds: dict[str, _Array]) -> dict[str, float]:
    """For every output, the norm of the difference to ONNX Runtime over the norm."""
    expected = Evaluator(graph, threads=2).run(feeds)
    with torch.no_grad():
        found = _outputs(module, feeds)
    errors = {}
    for (name, wanted), tensor in zip(expected.items(), found, strict=True):
        wide = wanted.astype(np.float64)
        errors[name] = float(np.linalg.norm(tensor.double().numpy() - wide) / (np.linalg.norm(wide) or 1.0))
    return errors


def _outputs(module: GraphModule, feeds: dict[str, _Array]) -> tuple[torch.Tensor, ...]:
    inputs = (torch.from_numpy(feeds[name]) for name in module.input_names)
    kind = next((p.dtype for p in module.parameters()), torch.float32)
    found = module(*(x.to(kind) if x.is_floating_point() else x for x in inputs))
    return found if isinstance(found, tuple) else (found,)


def in_double(graph: Graph) -> Graph:
    """A copy that computes in double precision, casts to float inside it too."""
    single, double = ir.DataType.FLOAT, ir.DataType.DOUBLE
    copy = graph.copy()

    def widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        return (
            ir.tensor(tensor.numpy().astype(np.float64), name=tensor.name)
            if tensor.dtype == single
            else tensor
        )

    for level in copy.ir_model.graphs():
        for value in level.initializers.values():
            if value.const_value is not None:
                value.const_value = widened(value.const_value)
        for node in level:
            if node.op_type in ("Cast", "LayerNormalization"):
                name = "to" if node.op_type == "Cast" else "stash_type"
                if name not in node.attributes or node.attributes[name].as_int() == single:
                    node.attributes[name] = ir.AttrInt64(name, double)
            for attribute in list(node.attributes.values()):
                if attribute.type == ir.AttributeType.TENSOR:
                    node.attributes[attribute.name] = ir.AttrTensor(
                        attribute.name, widened(attribute.as_tensor())
                    )
        for value in (*level.inputs, *(v for node in level for v in node.outputs)):
            if value.dtype == single:
                # Not value.dtype: a copied graph shares the type with the one it came from.
                value.type = ir.TensorType(double)
    return copy


def gradients(graph: Graph, feeds: dict[str, _Array], seed: int = 0) -> Gradients:
    """Gradients of randomly drawn weight elements against central differences, in double precision."""
    rng = np.random.default_rng(seed)
    module = to_torch(in_double(graph)).eval()
    directions: list[torch.Tensor] = []

    def value() -> torch.Tensor:
        floats = [y for y in _outputs(module, feeds) if y.is_floating_point()]
        if not directions:
            directions.extend(torch.from_numpy(rng.standard_normal(y.shape)) for y in floats)
        return torch.stack([(y * d).sum() for y, d in zip(floats, directions, strict=True)]).sum()

    value().backward()  # type: ignore[no-untyped-call]
    weights = [p for p in module.parameters() if p.grad is not None]
    errors = []
    for _ in range(ELEMENTS):
        weight = weights[rng.integers(len(weights))]
        index = int(rng.integers(weight.numel()))
        errors.append(_error(value, weight, index))
    return Gradients(tuple(errors))


def _error(value: Callable[[], torch.Tensor], weight: torch.nn.Parameter, index: int) -> float:
    """The relative error of one gradient, with the largest step for which it is small, or the best one."""
    flat = weight.data.view(-1)
    assert weight.grad is not None
    analytical, before = float(weight.grad.view(-1)[index]), float(flat[index])
    scale = float(flat.square().mean().sqrt()) or 1.0
    # Gradients far below their tensor's usual size drown in what is left out of the difference.
    least = max(abs(analytical), 1e-3 * float(weight.grad.square().mean().sqrt()))
    best = np.inf
    for step in (s * scale for s in STEPS):
        ends = []
        with torch.no_grad():
            for sign in (1, -1):
                flat[index] = before + sign * step
                ends.append(float(value()))
            flat[index] = before
        numerical = (ends[0] - ends[1]) / (2 * step)
        noise = _ROUNDING * abs(ends[0]) / step
        best = min(best, abs(analytical - numerical) / max(least, abs(numerical), noise / AGREES))
        if best < AGREES:
            break
    return best


def check(folder: Path, samples: int) -> str:
    """The report on one model, a line an output and one for the gradients."""
    start = time.perf_counter()
    graph = Graph.open(folder / "model.onnx")
    feeds = {spec.name: rows_of(folder / "data.npz", spec.name, samples) for spec in graph.inputs}
    module = to_torch(graph).eval()
    lines = [f"{folder.name}: {graph.ir_model.graph.num_nodes()} nodes, opset {graph.opset}"]
    for name, error in differences(graph, module, feeds).items():
        lines.append(f"  output {name}: relative difference {error:.1e}")
    one = {name: array[:1] for name, array in feeds.items()}
    lines.append(f"  gradients: {gradients(graph, one)}")
    lines.append(f"  {time.perf_counter() - start:.0f} s")
    return "\n".join(lines)


def main() -> None:
    """Check the models named, or all that are in the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, required=True, help="a folder of folders")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(2)
    for path in sorted(options.models.glob("*/model.onnx")):
        if not options.names or path.parent.name in options.names:
            print(check(path.parent, options.samples), flush=True)


if __name__ == "__main__":
    main()

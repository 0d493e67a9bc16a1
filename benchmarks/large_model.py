"""A model of any size, made up: its weights are random, its shape is that of a transformer's projections.

    python -m benchmarks.large_model --gib 2.4 --out DIR

Writes ``DIR/model.onnx`` with its weights in ``DIR/model.onnx.data`` and ``DIR/data.npz``: residual blocks of
a wide and a narrow MatMul with Relu, 2,048 and 8,192 wide, float32. The weights are written one at a time, so
that making the model takes little memory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

WIDTH, INNER = 2048, 8192
SAMPLES = 320
CLASSES = 10


def main() -> None:
    """Write the model and its data."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gib", type=float, default=2.4, help="size of the weights in GiB")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write(arguments.out, max(1, round(arguments.gib * 2**30 / (2 * 4 * WIDTH * INNER))))


def write(folder: Path, blocks: int) -> None:
    """A model of so many blocks, and samples of white noise."""
    rng = np.random.default_rng(0)
    nodes, stored = [], []
    with (folder / "model.onnx.data").open("wb") as file:

        def weight(name: str, rows: int, columns: int, gain: float) -> str:
            array = rng.standard_normal((rows, columns), np.float32) * np.float32(gain / rows**0.5)
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(rows, columns))
            tensor.data_location = TensorProto.EXTERNAL
            place = {"location": "model.onnx.data", "offset": file.tell(), "length": array.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            file.write(array.tobytes())
            stored.append(tensor)
            return name

        value = "x"
        for i in range(blocks):
            wide, narrow = weight(f"up_{i}", WIDTH, INNER, 1.0), weight(f"down_{i}", INNER, WIDTH, 0.5)
            nodes += [
                helper.make_node("MatMul", [value, wide], [f"wide_{i}"], name=f"up_{i}"),
                helper.make_node("Relu", [f"wide_{i}"], [f"relu_{i}"], name=f"relu_{i}"),
                helper.make_node("MatMul", [f"relu_{i}", narrow], [f"narrow_{i}"], name=f"down_{i}"),
                helper.make_node("Add", [value, f"narrow_{i}"], [f"sum_{i}"], name=f"sum_{i}"),
            ]
            value = f"sum_{i}"
        head = weight("head", WIDTH, CLASSES, 1.0)
    nodes.append(helper.make_node("MatMul", [value, head], ["scores"], name="head"))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        stored,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(folder / "model.onnx"))
    np.savez(folder / "data.npz", x=rng.standard_normal((SAMPLES, WIDTH), np.float32))


if __name__ == "__main__":
    main()

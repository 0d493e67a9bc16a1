"""Writing and opening graphs: weights inside the file, and beside it where they are large."""

from __future__ import annotations

import numpy as np
from small_graphs import conv_net

from hasten.graph import Graph, graph


def weights(made: Graph) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in made.weights.items()}


def test_small_models_are_one_file(tmp_path):
    made = conv_net()
    assert made.write(tmp_path / "model.onnx") == (tmp_path / "model.onnx",)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_large_models_have_their_weights_beside_them(tmp_path, monkeypatch):
    made = conv_net()
    monkeypatch.setattr(graph, "_INLINE_BYTES", 1000)
    files = made.write(tmp_path / "model.onnx")
    assert [path.name for path in files] == ["model.onnx", "model.onnx.data"]
    assert files[1].stat().st_size >= 1000
    again = weights(Graph.open(files[0]))
    for name, array in weights(made).items():
        np.testing.assert_array_equal(again[name], array)


def test_a_model_written_over_itself_keeps_its_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_INLINE_BYTES", 1000)
    path = tmp_path / "model.onnx"
    conv_net().write(path)
    Graph.open(path).write(tmp_path / "copy.onnx")
    again = weights(Graph.open(tmp_path / "copy.onnx"))
    for name, array in weights(conv_net()).items():
        np.testing.assert_array_equal(again[name], array)

"""What every loader owes, and every kind of model that is refused."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from small_graphs import feeds_of

from hasten import loaders
from hasten.core.errors import InputError, ModelError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator


@pytest.mark.parametrize("key", loaders.TABLE)
def test_every_row_names_a_loader(key):
    module = inspect.getmodule(loaders._loader(key).load)
    assert module is not None
    assert module.__name__ == loaders.TABLE[key]
    assert list(inspect.signature(module.load).parameters) == ["request"]


@pytest.mark.parametrize("suffix", loaders.REFUSED)
def test_a_known_format_that_is_not_read_names_the_way_out(suffix, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"something")
    with pytest.raises(InputError) as refused:
        loaders.read(path)
    assert f"model{suffix}" in str(refused.value)
    assert len(str(refused.value)) > 40


def test_a_file_reads_as_what_it_computes(any_graph, tmp_path):
    any_graph.write(tmp_path / "model.onnx")
    loaded = loaders.read(tmp_path / "model.onnx").graph
    assert isinstance(loaded, Graph)
    assert [(s.name, s.dtype) for s in loaded.inputs] == [(s.name, s.dtype) for s in any_graph.inputs]
    assert [(s.name, s.dtype) for s in loaded.outputs] == [(s.name, s.dtype) for s in any_graph.outputs]
    feeds = feeds_of(any_graph)
    wanted = Evaluator(any_graph).run(feeds)
    for name, value in Evaluator(loaded).run(feeds).items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("suffix", [key for key in loaders.TABLE if key.startswith(".")])
@pytest.mark.parametrize("content", [b"", b"not a model", bytes(range(256)) * 8])
def test_a_file_that_is_no_model_is_a_model_error(suffix, content, tmp_path):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="model"):
        loaders.read(path)

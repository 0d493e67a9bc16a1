"""SavedModels come in with their answers; needs TensorFlow, which has an environment of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow", reason="TensorFlow is an extra: pip install 'hasten[tensorflow]'")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
keras = pytest.importorskip("keras", reason="Keras is an extra: pip install 'hasten[tensorflow]'")
if keras.backend.backend() != "tensorflow":
    pytest.skip("Keras runs on another backend in this process", allow_module_level=True)

from hasten.core.errors import InputError, ModelError  # noqa: E402
from hasten.graph.evaluate import Evaluator  # noqa: E402
from hasten.loaders import check, read  # noqa: E402
from loaders import keras_models  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    # tf2onnx and Keras' copy of it for numpy 2 look at names that numpy is about to bring back.
    pytest.mark.filterwarnings("ignore:In the future `np.object`:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(tensorflow|tf2onnx|keras|google)"),
]

RNG = np.random.default_rng(0)


class Linear(tf.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.weight = tf.Variable(tf.constant(RNG.normal(size=(4, 3)).astype(np.float32)))

    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def both(self, x: Any) -> dict[str, Any]:
        return {"z": x @ self.weight, "again": x}


class Hostile(Linear):
    @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])
    def hostile(self, x: Any) -> dict[str, Any]:
        tf.io.write_file("written", "by a model")
        return {"z": x @ self.weight}


class OfText(Linear):
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
    def of_text(self, text: Any) -> dict[str, Any]:
        return {"length": tf.strings.length(text)}


def answers(folder: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    function = tf.saved_model.load(str(folder)).signatures["serving_default"]
    outputs = function(**{name: tf.constant(array) for name, array in feeds.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


@pytest.mark.parametrize(
    ("make", "takes", "shape"),
    [
        (keras_models.cnn, "image: float32[batchx12x12x3]", (5, 12, 12, 3)),
        (keras_models.attention, "sequence: float32[batchx6x8]", (5, 6, 8)),
        (keras_models.open_recurrent, None, (5, 11, 4)),
    ],
)
def test_a_saved_model_of_keras(
    make: Callable[[], Any], takes: str | None, shape: tuple[int, ...], tmp_path: Path
) -> None:
    make().export(tmp_path / "net", verbose=False)
    loaded = read(tmp_path / "net")
    assert (loaded.source, loaded.format, loaded.notes) == ("net", "tensorflow", ())
    (spec,) = loaded.graph.inputs
    assert takes in (None, str(spec))
    assert loaded.graph.outputs[0].shape is not None
    assert loaded.graph.outputs[0].shape[0] == "batch"
    feeds = {spec.name: RNG.normal(size=shape).astype(np.float32)}
    expected = answers(tmp_path / "net", feeds)
    got = Evaluator(loaded.graph).run(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
    assert max(check(loaded, [feeds]).values()) < 1e-4


def test_a_module_and_an_output_that_is_an_input(tmp_path: Path) -> None:
    module = Linear()
    tf.saved_model.save(module, str(tmp_path / "net"), signatures=module.both)
    loaded = read(tmp_path / "net", samples=[{"x": np.ones((1, 4), np.float32)}])
    assert sorted(spec.name for spec in loaded.graph.outputs) == ["again", "z"]
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    got = Evaluator(loaded.graph).run({"x": x})
    np.testing.assert_array_equal(got["again"], x)
    np.testing.assert_allclose(got["z"], x @ module.weight.numpy(), rtol=1e-5, atol=1e-6)


def test_a_hostile_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = Hostile()
    tf.saved_model.save(module, str(tmp_path / "net"), signatures=module.hostile)
    with pytest.raises(ModelError, match="is a 'WriteFile', which can reach files"):
        read(tmp_path / "net")
    assert not (tmp_path / "written").exists()


def test_inputs_and_signatures_that_do_not_do(tmp_path: Path) -> None:
    text, module = OfText(), Linear()
    tf.saved_model.save(text, str(tmp_path / "text"), signatures=text.of_text)
    with pytest.raises(ModelError, match="input 'text' is string; hasten takes numbers"):
        read(tmp_path / "text")
    tf.saved_model.save(module, str(tmp_path / "named"), signatures={"other": module.both})
    with pytest.raises(ModelError, match="has no signature 'serving_default', only other"):
        read(tmp_path / "named")
    with pytest.raises(InputError, match=r"tf\.saved_model\.save\(object, 'folder'\)"):
        read(module)


def test_a_keras_model_and_its_file_on_tensorflow(tmp_path: Path) -> None:
    model = keras_models.several()
    model.save(tmp_path / "net.keras")
    feeds = {
        "series": RNG.normal(size=(3, 7, 4)).astype(np.float32),
        "flat": RNG.normal(size=(3, 4)).astype(np.float32),
    }
    expected = model.predict_on_batch([feeds["series"], feeds["flat"]])
    for source in (model, tmp_path / "net.keras"):
        loaded = read(source)
        assert loaded.format == "keras"
        assert [spec.name for spec in loaded.graph.inputs] == ["series", "flat"]
        got = Evaluator(loaded.graph).run(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)
        assert max(check(loaded, [feeds]).values()) < 1e-4


def test_a_function_by_its_name() -> None:
    loaded = read("loaders.keras_models:seeded")
    assert (loaded.format, loaded.eager) == ("keras", None)
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    got = Evaluator(loaded.graph).run({"input_layer": x})["dense"]
    np.testing.assert_allclose(got, keras_models.seeded().predict_on_batch(x), rtol=1e-4, atol=1e-5)


def test_a_length_stays_open_on_tensorflow() -> None:
    model = keras_models.open_recurrent()
    graph = read(model).graph
    for length in (3, 20):
        series = RNG.normal(size=(2, length, 4)).astype(np.float32)
        got = Evaluator(graph).run({"series": series})["out"]
        np.testing.assert_allclose(got, model.predict_on_batch(series), rtol=1e-4, atol=1e-5)

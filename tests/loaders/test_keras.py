"""Keras models come in with their answers; files that ask for more than layers are refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hasten.core.errors import InputError, ModelError
from hasten.graph.evaluate import Evaluator
from hasten.loaders import check, read
from hasten.loaders.keras_backend import backend_environment, configured
from hasten.loaders.keras_file import screen

os.environ.update(backend_environment())
keras = pytest.importorskip("keras", reason="Keras is an extra: pip install 'hasten[keras]'")

from loaders import keras_models  # noqa: E402

# Keras on PyTorch asks a torch parameter for an array without a copy, which torch does not know of yet.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

RNG = np.random.default_rng(0)
ON_TORCH = keras.backend.backend() == "torch"


def feeds_for(model: Any, count: int = 3, length: int = 9) -> dict[str, np.ndarray]:
    """Random inputs by name, with ``count`` samples, and ``length`` for open axes."""
    made = {}
    for tensor in model.inputs:
        shape = [count, *(length if axis is None else axis for axis in tensor.shape[1:])]
        is_float = str(tensor.dtype).startswith("float")
        values = RNG.normal(size=shape) if is_float else RNG.integers(0, 50, shape)
        made[tensor.name] = values.astype(str(tensor.dtype))
    return made


@pytest.mark.parametrize(
    ("make", "takes", "gives"),
    [
        (keras_models.cnn, ["image: float32[batchx12x12x3]"], ["logits: float32[batchx5]"]),
        (keras_models.attention, ["sequence: float32[batchx6x8]"], ["hidden: float32[batchx6x8]"]),
        (keras_models.recurrent, ["tokens: int32[batchx6]"], ["scores: float32[batchx3]"]),
    ],
)
def test_a_model(make: Callable[[], Any], takes: list[str], gives: list[str], tmp_path: Path) -> None:
    model = make()
    loaded = read(model, work=tmp_path)
    assert (loaded.format, loaded.notes) == ("keras", ())
    assert [str(spec) for spec in loaded.graph.inputs] == takes
    assert [str(spec) for spec in loaded.graph.outputs] == gives
    feeds = feeds_for(model, 5)
    expected = model.predict_on_batch(next(iter(feeds.values())))
    (got,) = Evaluator(loaded.graph).run(feeds).values()
    # Float32 on both sides; these sums have some hundred terms of magnitude 1.
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert max(check(loaded, [feeds]).values()) < 1e-4
    assert (loaded.eager is not None) == ON_TORCH


def test_several_inputs_and_outputs_and_a_length_that_varies(tmp_path: Path) -> None:
    model = keras_models.several()
    loaded = read(model, work=tmp_path)
    assert [spec.name for spec in loaded.graph.inputs] == ["series", "flat"]
    assert [spec.name for spec in loaded.graph.outputs] == ["score", "shares"]
    for count, length in ((1, 5), (4, 40)):
        feeds = feeds_for(model, count, length)
        expected = model.predict_on_batch([feeds["series"], feeds["flat"]])
        got = Evaluator(loaded.graph).run(feeds)
        for name, value in expected.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_a_dictionary_of_inputs_is_given_by_its_keys() -> None:
    model = keras_models.by_key()
    graph = read(model).graph
    feeds = {name: RNG.normal(size=(4, 3)).astype(np.float32) for name in ("first", "second")}
    expected = np.concatenate([feeds["first"], -feeds["second"]], axis=1)
    np.testing.assert_allclose(Evaluator(graph).run(feeds)["out"], expected)


@pytest.mark.skipif(not ON_TORCH, reason="on TensorFlow Keras' exporter leaves the batch open")
def test_a_batch_that_the_model_fixes() -> None:
    graph = read(keras_models.of_three()).graph
    assert str(graph.inputs[0]) == "rows: float32[3x4]"
    assert graph.outputs[0].shape == (3, 2, 2)


def test_names_and_outputs_of_other_kinds() -> None:
    assert [spec.name for spec in read(keras_models.half()).graph.outputs] == ["conv2d"]
    graph = read(keras_models.Partial(), inputs=["x=1x3"]).graph
    assert [str(spec) for spec in graph.outputs] == ["output_1: float32[batchx3]"]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = keras_models.unnamed()
    modes = [part.training for part in model.modules()] if ON_TORCH else []
    before = [array.copy() for array in model.get_weights()]
    graph = read(model).graph
    assert modes == ([part.training for part in model.modules()] if ON_TORCH else [])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    fingerprint = graph.fingerprint
    model.set_weights([0 * array for array in before])
    assert graph.fingerprint == fingerprint


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    model = keras_models.cnn()
    model.compile("adam", "mse")
    model.save(path)
    return path


def test_a_file(saved: Path, tmp_path: Path) -> None:
    loaded = read(saved, work=tmp_path)
    assert (loaded.source, loaded.format) == ("net.keras", "keras")
    assert [str(s) for s in (*loaded.graph.inputs, *loaded.graph.outputs)] == [
        "image: float32[batchx12x12x3]",
        "logits: float32[batchx5]",
    ]
    model = keras.saving.load_model(saved, compile=False)
    feeds = feeds_for(model)
    np.testing.assert_allclose(
        Evaluator(loaded.graph).run(feeds)["logits"],
        model.predict_on_batch(feeds["image"]),
        rtol=1e-4,
        atol=1e-5,
    )
    assert check(loaded, [feeds])["logits"] < 1e-5
    for trace in (b"keras_torch.py", b"stack_trace", str(Path(__file__).parent).encode()):
        assert trace not in loaded.graph.to_bytes()


def test_a_function_by_its_name() -> None:
    loaded = read("loaders.keras_models:seeded")
    assert (loaded.source, loaded.format) == ("loaders.keras_models:seeded", "keras")
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    got = Evaluator(loaded.graph).run({"input_layer": x})["dense"]
    np.testing.assert_allclose(got, keras_models.seeded().predict_on_batch(x), rtol=1e-4, atol=1e-5)


def test_a_function_that_returns_something_else() -> None:
    with pytest.raises(ModelError, match=r"it must return a torch\.nn\.Module, .*, a keras\.Model"):
        read("loaders.keras_models:loss")


def test_a_subclassed_model(tmp_path: Path) -> None:
    model = keras_models.subclassed()
    with pytest.raises(InputError, match=r"what does TwoInputs take\? its call is call\(first, second\)"):
        read(model)
    first, second = (RNG.normal(size=(2, size)).astype(np.float32) for size in (3, 4))
    expected = [keras.ops.convert_to_numpy(value) for value in model(first, second)]
    for given in (
        {"inputs": ["second=1x4", "first=1x3"]},
        {"samples": [{"first": first[:1], "second": second[:1]}]},
    ):
        graph = read(model, work=tmp_path, **given).graph  # type: ignore[arg-type]
        got = Evaluator(graph).run({"first": first, "second": second})
        assert list(got) == ["output_0", "output_1"]
        for value, wanted in zip(got.values(), expected, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_the_inputs() -> None:
    model = keras_models.several()
    with pytest.raises(InputError, match=r"inputs are series, flat, --input names wrong"):
        read(model, inputs=["wrong=1x4"])
    with pytest.raises(InputError, match=r"inputs are series, flat, the data have flat"):
        read(model, samples=[{"flat": np.ones((1, 4), np.float32)}])
    with pytest.raises(InputError, match="axis 1 is 4 in the model, it cannot be 5"):
        read(model, inputs=["flat=1x5"])
    with pytest.raises(InputError, match="has 2 axes, --input gives 3"):
        read(model, inputs=["flat=1x4x1"])
    with pytest.raises(InputError, match=r"part of a model; give a keras\.Model"):
        read(keras_models.loss())


@pytest.mark.skipif(not ON_TORCH, reason="only PyTorch unrolls recurrent layers")
def test_a_length_that_pytorch_fixes_is_said() -> None:
    loaded = read(keras_models.open_recurrent(), inputs=["series=1x5x4"])
    assert loaded.graph.inputs[0].shape == ("batch", 5, 4)
    (note,) = loaded.notes
    assert "axis 1 of input 'series' is fixed at 5" in note


@pytest.fixture
def changed(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy with its configuration edited, or with members added."""

    def make(edit: Callable[[Any], object] | None = None, **added: bytes) -> Path:
        path = tmp_path / "net.keras"
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if edit is not None and entry.filename == "config.json":
                    tree = json.loads(content)
                    edit(tree)
                    content = json.dumps(tree).encode()
                new.writestr(entry.filename, content)
            for name, content in added.items():
                new.writestr(name, content)
        return path

    return make


def test_an_honest_file_passes(saved: Path, changed: Callable[..., Path]) -> None:
    screen(saved)
    screen(changed(lambda tree: None, **{"assets/vocabulary.txt": b"a\nb"}))


def test_how_it_was_trained_does_not_matter(changed: Callable[..., Path]) -> None:
    own = {"module": "mine", "class_name": "Loss", "config": {}, "registered_name": "mine>Loss"}
    screen(changed(lambda tree: tree["compile_config"].update(loss=own)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (keras_models.with_lambda, r"net\.keras: layer 'twice' is a Lambda: .*package\.module:function"),
        (
            keras_models.with_own_layer,
            r"layer 'twice' needs .*Doubling', which is not part of Keras; write pack",
        ),
        (keras_models.subclassed, r"needs .*TwoInputs', which is not part of Keras"),
    ],
)
def test_code_of_ones_own(make: Callable[[], Any], message: str, tmp_path: Path) -> None:
    model = make()
    if not model.built:
        model(np.ones((1, 3), np.float32), np.ones((1, 4), np.float32))
    model.save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match=message):
        read(tmp_path / "net.keras")


def second_layer(**fields: Any) -> Callable[[Any], object]:
    return lambda tree: tree["config"]["layers"][1].update(fields)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (second_layer(module="os", class_name="system"), "needs 'os.system'"),
        (second_layer(module="keras.utils", class_name="get_file"), "needs 'keras.utils.get_file'"),
        (second_layer(module="keras.src.saving.saving_lib"), "which is not part of Keras"),
        (
            second_layer(module="keras.config", class_name="enable_unsafe_deserialization"),
            "not part of Keras",
        ),
        (second_layer(module="keras.layers\n"), "not part of Keras"),
        (second_layer(module=None, registered_name="mine>Layer"), "needs 'mine>Layer'"),
        (second_layer(registered_name="mine>Layer"), "not part of Keras"),
        (second_layer(module="keras.layers", class_name="TFSMLayer"), "is a TFSMLayer: a program"),
        (second_layer(module="keras.layers", class_name="TorchModuleWrapper"), "is a TorchModuleWrapper"),
        (second_layer(config={"name": "lookup", "vocabulary": "/etc/passwd"}), "'lookup' reads its vocab"),
        (second_layer(config={"f": {"class_name": "__lambda__", "config": {}}}), "is a Lambda"),
        (lambda tree: tree.pop("class_name"), "names no class"),
    ],
)
def test_configurations_that_ask_for_more(
    edit: Callable[[Any], object], message: str, changed: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=message):
        screen(changed(edit))


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/etc/evil", "assets/../../evil", "assets//evil", "assets\\evil", "evil.pkl", "C:evil"],
)
def test_members_that_do_not_belong(name: str, changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"which model\.save of Keras 3 does not write"):
        screen(changed(**{name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_a_name(changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="two files of the same name"):
        screen(changed(**{"config.json": b"{}"}))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"config.json": b" " * (1 << 24)}, "claims 16777216 bytes"),
        ({"config.json": b"{"}, "not a .keras file, or it is damaged"),
        ({"config.json": b"[]"}, "names no class"),
        ({"metadata.json": b"{}"}, "holds no config.json"),
    ],
)
def test_archives_that_hold_something_else(members: dict[str, bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(ModelError, match=message):
        screen(path)


def test_a_configuration_without_end(tmp_path: Path) -> None:
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", b"[" * 1_000_000)
    with pytest.raises(ModelError, match="nested too deeply"):
        screen(path)


def test_weights_that_lead_to_another_file(saved: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(np.ones(5, np.float32).tobytes())
    path, weights = tmp_path / "net.keras", tmp_path / "model.weights.h5"
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        weights.write_bytes(old.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            group = file["layers/dense/vars"]
            del group["1"]
            group.create_dataset("1", (5,), "<f4", external=[(str(tmp_path / "secret"), 0, 20)])
        new.writestr("config.json", old.read("config.json"))
        new.writestr("metadata.json", old.read("metadata.json"))
        new.write(weights, "model.weights.h5")
    with pytest.raises(ModelError, match=r"net\.keras: opening it in Keras .* failed: .*external"):
        read(path)


def test_a_damaged_configuration_is_a_model_error(changed: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match=r"net\.keras: opening it in Keras .* failed"):
        read(changed(lambda tree: tree["config"]["layers"][1]["config"].update(filters="many")))


@pytest.mark.parametrize("name", ["old.h5", "old.hdf5"])
def test_the_old_format_names_the_way_out(name: str, tmp_path: Path) -> None:
    keras_models.unnamed().save(tmp_path / "net.keras")
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(InputError, match=rf"{name}: .*model\.save\('model\.keras'\)"):
        read(tmp_path / name)


def test_a_backend_that_cannot_be_converted() -> None:
    program = (
        "import keras; from hasten.loaders import read; from hasten.core.errors import Unavailable\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])\n"
        "try: read(model)\n"
        "except Unavailable as error: print(error)"
    )
    environment = {**os.environ, "KERAS_BACKEND": "openvino"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "Keras runs on openvino here" in done.stdout, done.stderr
    assert "KERAS_BACKEND=torch" in done.stdout


def test_which_backend_a_child_uses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "KERAS_BACKEND" not in backend_environment()
    monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    assert configured() is None
    assert backend_environment()["KERAS_BACKEND"] in ("torch", "tensorflow")
    (tmp_path / "keras.json").write_text('{"backend": "torch"}', encoding="utf-8")
    assert configured() == "torch"
    (tmp_path / "keras.json").write_text('{"backend": "openvino"}', encoding="utf-8")
    assert backend_environment()["KERAS_BACKEND"] in ("torch", "tensorflow")
    (tmp_path / "keras.json").write_text("[1", encoding="utf-8")
    assert configured() is None

"""A user's own model file as an artifact."""

import numpy as np
import onnx
import pytest

from hasten import targets
from hasten.core.errors import InputError, ModelError

from . import models


def test_an_onnx_file_opens_as_it_is(tmp_path):
    models.classifier().write(tmp_path / "mine.onnx")
    artifact, folder = targets.artifact_of(tmp_path / "mine.onnx", {"threads": 1})
    assert (artifact.target, artifact.entry, folder) == ("onnxruntime", "mine.onnx", tmp_path)
    runner = targets.find(artifact.target).open(
        artifact, folder, targets.options(artifact.target, artifact.options)
    )
    assert runner.run({"image": np.zeros((1, 3, 8, 8), np.float32)})["logits"].shape == (1, 3)


def test_an_openvino_file_takes_its_weights_along(tmp_path):
    target = targets.find("openvino")
    target.export(models.classifier(), tmp_path, targets.options("openvino", {}))
    artifact, folder = targets.artifact_of(tmp_path / "model.xml")
    assert [f.path for f in artifact.files] == ["model.xml", "model.bin"]
    runner = target.open(artifact, folder, targets.options("openvino", {}))
    assert [s.name for s in runner.inputs] == ["image"]


def test_external_weights_are_files_of_the_artifact(tmp_path):
    model = onnx.load_from_string(models.classifier(channels=64).to_bytes())
    onnx.save(
        model, tmp_path / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=64
    )
    artifact, _ = targets.artifact_of(tmp_path / "big.onnx")
    assert [f.path for f in artifact.files] == ["big.onnx", "big.data"]
    assert artifact.size_bytes > 64 * 27 * 4


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", ""])
def test_external_weights_outside_the_folder_are_refused(location, tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "secret").write_bytes(bytes(1 << 16))
    model = onnx.load_from_string(models.classifier(channels=64).to_bytes())
    onnx.save(
        model, tmp_path / "inner" / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64
    )
    model = onnx.load(tmp_path / "inner" / "m.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    (tmp_path / "inner" / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside"):
        targets.artifact_of(tmp_path / "inner" / "m.onnx")


@pytest.mark.parametrize("name", ["model.tflite", "model"])
def test_other_files_are_refused_with_what_is_possible(name, tmp_path):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=r"\.onnx"):
        targets.artifact_of(tmp_path / name)


@pytest.mark.parametrize("name", ["gone.onnx", "gone.xml", "gone.pt2"])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(ModelError, match="No such file"):
        targets.artifact_of(tmp_path / name)


def test_bytes_that_are_no_model_are_refused(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="not an ONNX model"):
        targets.artifact_of(tmp_path / "x.onnx")

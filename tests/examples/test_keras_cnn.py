"""The bundled Keras model is what the page beside it says."""

from __future__ import annotations

import re
import runpy
import zipfile
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from hasten.loaders import read
from hasten.loaders.keras_file import screen

FOLDER = Path(__file__).parents[2] / "examples" / "keras_cnn"
RIGHT = 3625
"""Of the 4,000 pictures, as Keras on PyTorch counts."""


@cache
def data() -> dict[str, np.ndarray]:
    return dict(runpy.run_path(str(FOLDER / "data.py"))["pictures"]())


def test_data() -> None:
    assert data()["image"].shape == (4000, 28, 28, 1)
    assert data()["image"].dtype == np.float32
    with np.load(FOLDER.parent / "fashion_mnist" / "data.npz", allow_pickle=False) as file:
        assert np.array_equal(file["image"][:, 0], data()["image"][..., 0])
        assert np.array_equal(file["labels"], data()["labels"])


def test_the_file() -> None:
    path = FOLDER / "model.keras"
    screen(path)
    assert path.stat().st_size < 1_500_000
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.startswith("assets")]
        assert b"/" not in archive.read("config.json").replace(b"\\/", b"")


def test_accuracy(tmp_path: Path) -> None:
    graph = read(FOLDER / "model.keras").graph
    assert [str(spec) for spec in (*graph.inputs, *graph.outputs)] == [
        "image: float32[batchx28x28x1]",
        "logits: float32[batchx10]",
    ]
    graph.write(tmp_path / "model.onnx")
    session = ort.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image, labels = data()["image"], data()["labels"]
    chunks = [session.run(["logits"], {"image": image[i : i + 500]})[0] for i in range(0, 4000, 500)]
    right = int((np.concatenate(chunks).argmax(axis=1) == labels).sum())
    # A picture whose two largest logits are within float32's rounding may fall either way.
    assert right == pytest.approx(RIGHT, abs=1)
    assert right >= 0.9 * 4000


def test_the_page_and_the_log_say_the_same() -> None:
    found = {
        re.search(r"accuracy of model\.keras on the test set: [\d.]+ % of 10000", text)[0]  # type: ignore[index]
        for text in ((FOLDER / name).read_text(encoding="utf-8") for name in ("README.md", "train.log"))
    }
    assert len(found) == 1

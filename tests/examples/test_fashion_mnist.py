"""The bundled model and its data are what the page beside them says, in ONNX Runtime."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

FOLDER = Path(__file__).parents[2] / "examples" / "fashion_mnist"


@cache
def data() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "data.npz", allow_pickle=False) as file:
        return dict(file)


def test_data() -> None:
    image, labels = data()["image"], data()["labels"]
    assert image.shape == (4000, 1, 28, 28)
    assert image.dtype == np.float32
    assert labels.dtype == np.int64
    assert (image.min(), image.max()) == (0.0, 1.0)
    assert np.bincount(labels).tolist() == [400] * 10
    assert len({row.tobytes() for row in image}) == 4000


def test_accuracy() -> None:
    session = ort.InferenceSession(FOLDER / "model.onnx", providers=["CPUExecutionProvider"])
    image, labels = data()["image"], data()["labels"]
    chunks = [session.run(["logits"], {"image": image[i : i + 500]})[0] for i in range(0, 4000, 500)]
    right = int((np.concatenate(chunks).argmax(axis=1) == labels).sum())
    # The two largest logits are never less than 0.002 apart, a hundred times what float32 kernels differ by.
    assert right == 3678
    assert right / 4000 == 0.9195


def test_the_pages_and_the_log_say_the_same() -> None:
    for name in ("README.md", "train.log"):
        text = (FOLDER / name).read_text(encoding="utf-8")
        assert re.search(r"91\.95 ?%.*4000", text), name


def texts(message: object) -> list[str]:
    """All texts of a protobuf message, those of tensors' contents left out."""
    found: list[str] = []
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.type == field.TYPE_STRING:
            found += list(value) if field.is_repeated else [value]
        elif field.type == field.TYPE_MESSAGE:
            for part in value if field.is_repeated else [value]:
                found += texts(part)
    return found


def test_the_model_carries_no_path() -> None:
    model = onnx.load(FOLDER / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert not [text for text in texts(model) if "/" in text or "\\" in text]
    assert not [node.name for node in model.graph.node if node.metadata_props or node.doc_string]
    assert not model.metadata_props
    assert not model.doc_string

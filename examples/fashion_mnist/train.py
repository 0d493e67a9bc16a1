"""Train the textbook CNN on Fashion-MNIST and write model.onnx, data.npz and train.log.

Usage: python examples/fashion_mnist/train.py [--dataset DIR] [--out DIR]

DIR holds the four gzip files of Fashion-MNIST (Debian: apt install dataset-fashion-mnist). The network is
trained on the 60,000 training pictures; the 10,000 test pictures are looked at once, after the last epoch.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

SEED = 0
THREADS = 2
EPOCHS = 10
BATCH = 128
PEAK_LEARNING_RATE = 3e-3
WEIGHT_DECAY = 5e-4
SHIPPED_PER_CLASS = 400

log = logging.getLogger("fashion_mnist")


class TextbookCnn(nn.Sequential):
    """Conv 32 3x3 - ReLU - pool - Conv 64 3x3 - ReLU - pool - Dense 64 - ReLU - Dense 10, no padding.

    Maps pictures (batch, 1, 28, 28) float32 in [0, 1] to logits (batch, 10).
    """

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 5 * 5, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzip file of unsigned bytes in the IDX format (http://yann.lecun.com/exdb/mnist/).

    Raises ValueError when the file is not one, or is cut short.
    """
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path.name} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(content, ">u4", content[3], 4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    return values.reshape(shape)


def as_input(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn (n, 28, 28) bytes into (n, 1, 28, 28) float32 in [0, 1]."""
    return pictures[:, None].astype(np.float32) / np.float32(255)


def train(pictures: NDArray[np.uint8], labels: NDArray[np.uint8]) -> nn.Module:
    """Train for EPOCHS with Adam, a one-cycle learning rate and mirrored pictures; no early stopping."""
    torch.manual_seed(SEED)
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    image, target = torch.from_numpy(as_input(pictures)), torch.from_numpy(labels.astype(np.int64))
    model = TextbookCnn()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * -(-len(image) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(1, EPOCHS + 1):
        total_loss, hits = 0.0, 0
        order = torch.randperm(len(image))
        for first in range(0, len(image), BATCH):
            rows = order[first : first + BATCH]
            mirrored = torch.rand(len(rows), 1, 1, 1) < 0.5
            batch: Tensor = torch.where(mirrored, image[rows].flip(3), image[rows])
            logits = model(batch)
            loss = functional.cross_entropy(logits, target[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            total_loss += loss.item() * len(rows)
            hits += int((logits.argmax(1) == target[rows]).sum())
        log.info(
            "epoch %2d of %d: training loss %.4f, training accuracy %.2f %%",
            epoch,
            EPOCHS,
            total_loss / len(image),
            100 * hits / len(image),
        )
    return model.eval()


def export(model: nn.Module, path: Path) -> None:
    """Write the model with a dynamic batch, without the exporter's stack traces and local paths."""
    batch = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 28, 28),),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for symbolic in (proto.graph.input[0], proto.graph.output[0]):
        symbolic.type.tensor_type.shape.dim[0].dim_param = "batch"
    for element in (proto, proto.graph, *proto.graph.node, *proto.graph.input, *proto.graph.output):
        element.ClearField("doc_string")
        element.ClearField("metadata_props")
    proto.graph.ClearField("value_info")
    for tensor in proto.graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")
    proto.graph.name = "fashion_mnist_cnn"
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def accuracy(path: Path, pictures: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Top-1 accuracy of the exported file in ONNX Runtime, as a fraction."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    blocks = np.array_split(as_input(pictures), 20)
    logits = np.concatenate([session.run(None, {"image": block})[0] for block in blocks])
    return float((logits.argmax(1) == labels).mean())


def choose_shipped(
    train_pictures: NDArray[np.uint8], test_pictures: NDArray[np.uint8], test_labels: NDArray[np.uint8]
) -> NDArray[np.intp]:
    """Draw SHIPPED_PER_CLASS test pictures a class, none identical to a training picture; shuffled rows."""
    seen = {picture.tobytes() for picture in train_pictures}
    fresh = np.array([picture.tobytes() not in seen for picture in test_pictures])
    log.info("test pictures identical to a training picture: %d, left out", (~fresh).sum())
    rng = np.random.default_rng(SEED)
    rows = [
        rng.choice(np.flatnonzero(fresh & (test_labels == k)), SHIPPED_PER_CLASS, replace=False)
        for k in range(10)
    ]
    return rng.permutation(np.concatenate(rows))


def main() -> None:
    """Train, export, choose the shipped pictures, and log the accuracy on both test sets."""
    parser = argparse.ArgumentParser(description="Train the bundled Fashion-MNIST example.")
    parser.add_argument("--dataset", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stdout),
        logging.FileHandler(options.out / "train.log", mode="w"),
    ]
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.info("torch %s, onnx %s, seed %d, %d threads", torch.__version__, onnx.__version__, SEED, THREADS)

    train_pictures, test_pictures, train_labels, test_labels = (
        read_idx(options.dataset / f"{split}-{kind}-ubyte.gz")
        for kind in ("images-idx3", "labels-idx1")
        for split in ("train", "t10k")
    )
    log.info("%d training pictures, %d test pictures", len(train_pictures), len(test_pictures))
    model_path = options.out / "model.onnx"
    export(train(train_pictures, train_labels), model_path)
    rows = choose_shipped(train_pictures, test_pictures, test_labels)
    shipped, shipped_labels = test_pictures[rows], test_labels[rows]
    np.savez_compressed(
        options.out / "data.npz", image=as_input(shipped), labels=shipped_labels.astype(np.int64)
    )
    for what, pictures, labels in (
        ("whole test set", test_pictures, test_labels),
        ("shipped subset of it", shipped, shipped_labels),
    ):
        score = 100 * accuracy(model_path, pictures, labels)
        log.info("accuracy of model.onnx on the %s: %.2f %% of %d", what, score, len(labels))


if __name__ == "__main__":
    main()

"""Train the textbook Keras CNN on Fashion-MNIST and write model.keras and train.log.

Usage: KERAS_BACKEND=torch python examples/keras_cnn/train.py [--dataset DIR] [--out DIR]

DIR holds the four gzip files of Fashion-MNIST (Debian: apt install dataset-fashion-mnist). The network is
trained on the 60,000 training pictures; the 10,000 test pictures are looked at once, after the last epoch.
"""

from __future__ import annotations

import argparse
import gzip
import logging
import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

SEED = 0
EPOCHS = 6
BATCH = 128
PEAK_LEARNING_RATE = 2e-3

log = logging.getLogger("keras_cnn")


def build() -> keras.Model:
    """Conv 32 3x3 - ReLU - pool - Conv 64 3x3 - ReLU - pool - Dense 64 - ReLU - Dense 10, no padding.

    Maps pictures (batch, 28, 28, 1) float32 in [0, 1] to logits (batch, 10).
    """
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, name="logits"),
        ],
        name="textbook_cnn",
    )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzip file of unsigned bytes in the IDX format (http://yann.lecun.com/exdb/mnist/)."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">u4", content[3], 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * content[3]).reshape(shape)


def as_input(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn (n, 28, 28) bytes into (n, 28, 28, 1) float32 in [0, 1]."""
    return pictures[..., None].astype(np.float32) / np.float32(255)


def train(pictures: NDArray[np.uint8], labels: NDArray[np.uint8]) -> keras.Model:
    """Train for EPOCHS with Adam and a cosine learning rate; no early stopping."""
    keras.utils.set_random_seed(SEED)
    model = build()
    steps = EPOCHS * -(-len(pictures) // BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(as_input(pictures), labels, batch_size=BATCH, epochs=EPOCHS, verbose=0).history
    for epoch, (loss, accuracy) in enumerate(zip(history["loss"], history["accuracy"], strict=True), 1):
        log.info(
            "epoch %d of %d: training loss %.4f, training accuracy %.2f %%",
            epoch,
            EPOCHS,
            loss,
            100 * accuracy,
        )
    return model


def save(model: keras.Model, path: Path) -> None:
    """Write the model without the optimizer, whose two moments would make the file three times as large."""
    bare = build()
    bare.set_weights(model.get_weights())
    bare.save(path)


def accuracy(path: Path, pictures: NDArray[np.uint8], labels: NDArray[np.uint8]) -> float:
    """Top-1 accuracy of the saved file in Keras, as a fraction."""
    logits = keras.saving.load_model(path).predict(as_input(pictures), batch_size=500, verbose=0)
    return float((logits.argmax(1) == labels).mean())


def main() -> None:
    """Train, save, and log the accuracy on the test set."""
    parser = argparse.ArgumentParser(description="Train the Keras example on Fashion-MNIST.")
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
    log.info("Keras %s on %s, seed %d", keras.__version__, keras.backend.backend(), SEED)

    train_pictures, test_pictures, train_labels, test_labels = (
        read_idx(options.dataset / f"{split}-{kind}-ubyte.gz")
        for kind in ("images-idx3", "labels-idx1")
        for split in ("train", "t10k")
    )
    log.info("%d training pictures, %d test pictures", len(train_pictures), len(test_pictures))
    path = options.out / "model.keras"
    save(train(train_pictures, train_labels), path)
    score = 100 * accuracy(path, test_pictures, test_labels)
    log.info("accuracy of model.keras on the test set: %.2f %% of %d", score, len(test_labels))


if __name__ == "__main__":
    main()

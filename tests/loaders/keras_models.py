"""Small Keras models; imports Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers


def cnn() -> Any:
    return keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.SeparableConv2D(6, 3),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(5, name="logits"),
        ]
    )


def unnamed() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])


def seeded() -> Any:
    """The same weights in every process."""
    keras.utils.set_random_seed(0)
    return unnamed()


def recurrent() -> Any:
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    hidden = layers.LSTM(8)(layers.Embedding(50, 8)(tokens))
    return keras.Model(tokens, layers.Dense(3, name="scores")(hidden))


def attention() -> Any:
    sequence = keras.Input((6, 8), name="sequence")
    mixed = layers.MultiHeadAttention(2, 4)(sequence, sequence)
    return keras.Model(sequence, layers.LayerNormalization(name="hidden")(sequence + mixed))


def several() -> Any:
    """Inputs in another order than their names sort, one of them of open length; a dictionary out."""
    series, flat = keras.Input((None, 4), name="series"), keras.Input((4,), name="flat")
    pooled = layers.GlobalAveragePooling1D()(layers.Conv1D(8, 3, padding="same")(series))
    total = layers.Add()([layers.Dense(8)(flat), pooled])
    return keras.Model([series, flat], {"score": layers.Dense(2)(total), "shares": layers.Softmax()(total)})


def open_recurrent() -> Any:
    series = keras.Input((None, 4), name="series")
    return keras.Model(series, layers.Dense(2, name="out")(layers.GRU(4)(series)))


class TwoInputs(keras.Model):
    """Subclassed: what it takes stands in no list."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = layers.Dense(3), layers.Dense(3)

    def call(self, first: Any, second: Any, training: bool = False) -> Any:
        return keras.ops.relu(self.left(first)) - self.right(second), self.left(first)


def by_key() -> Any:
    """Takes a dictionary whose keys were not put in in their order."""
    second, first = keras.Input((3,), name="second"), keras.Input((3,), name="first")
    return keras.Model({"second": second, "first": first}, layers.Concatenate(name="out")([first, -second]))


def of_three() -> Any:
    """Its batch is no other than three."""
    rows = keras.Input(batch_shape=(3, 4), name="rows")
    return keras.Model(rows, keras.ops.reshape(rows, (3, 2, 2)))


def half() -> Any:
    """Its output has the name of an operator of PyTorch."""
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, layers.Conv2D(4, 3, dtype="mixed_float16", name="conv2d")(image))


class Partial(keras.Model):
    """Gives something beside tensors."""

    def call(self, x: Any) -> Any:
        return None, 2 * x, 3


def subclassed() -> Any:
    keras.utils.set_random_seed(0)
    return TwoInputs()


def with_lambda() -> Any:
    return keras.Sequential(
        [keras.Input((4,)), layers.Lambda(lambda x: x * 2, name="twice"), layers.Dense(2)]
    )


@keras.saving.register_keras_serializable(package="mine")
class Doubling(layers.Layer):
    def call(self, x: Any) -> Any:
        return 2 * x


def with_own_layer() -> Any:
    return keras.Sequential([keras.Input((4,)), Doubling(name="twice"), layers.Dense(2)])


def loss() -> Any:
    return keras.losses.MeanSquaredError()

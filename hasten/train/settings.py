"""What a training may be told."""

from __future__ import annotations

import fnmatch
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]

CHANGEABLE = frozenset({"threads", "device", "checkpoint_every"})
"""Settings that may differ when a run goes on: they decide how fast it is, not what it computes."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Basics:
    """What every training may be told.

    epochs: passes over the training samples. batch_size: samples of one optimizer step, over all processes
        and parts.
    learning_rate: after the warm-up. optimizer: ``adamw`` (β 0.9 and 0.999) or ``sgd``.
    relative: the learning rate of each weight is ``learning_rate`` times its root mean square; for ``adamw``,
        which else moves all numbers of a model alike, be they small or large.
    weight_decay: decoupled for ``adamw``, an L2 penalty for ``sgd``; of weights, not of biases and scales.
    ema: decay of the exponential moving average of the weights, or None.
    augment: what is done to pictures (NCHW), the same for student and teacher: ``flip`` left to right,
        ``crop`` after padding an eighth of the size with zeros, ``zoom`` to 35 % of the area or more.
    trainable: pattern of the names of the weights to train (``*`` and ``?``), several, or None for all.
    precision: of the arithmetic; weights and optimizer stay float32. float16 scales the loss, needs a GPU.
    device: ``auto`` is cuda when there, else cpu.
    """

    epochs: Positive = 3.0
    batch_size: Count = 32
    learning_rate: Positive = 1e-4
    optimizer: Literal["adamw", "sgd"] = "adamw"
    relative: bool = False
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    augment: tuple[Literal["flip", "crop", "zoom"], ...] = ()
    trainable: str | tuple[str, ...] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the weights to train; all fit ``*``."""
        wanted = "*" if self.trainable is None else self.trainable
        return (wanted,) if isinstance(wanted, str) else wanted

    def trains(self, name: str) -> bool:
        """Whether the weight of this name is to be trained."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.relative and self.optimizer == "sgd":
            raise ValueError("relative is for adamw; sgd's steps follow the gradients: leave one of them out")
        if not self.patterns:
            raise ValueError("trainable has no pattern, so no weight is trained: give one, or leave it out")
        return self


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Hyperparameters(Basics):
    """What a training may be told that keeps its best weights, by ``fit`` and by most methods that train.

    held_back: share of the samples not trained on, which the best weights are chosen by. patience:
        evaluations without a better one after which training stops, or None.
    keep_zeros: what is zero in weights (not in biases and scales) stays zero, as pruning left it.
    """

    held_back: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    patience: Count | None = None
    keep_zeros: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.patience is not None and not self.held_back:
            raise ValueError("patience needs samples to judge by: give held_back a share, such as 0.1")
        return self


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Settings(Hyperparameters):
    """The settings of ``fit``: ``Hyperparameters``, and these.

    steps: optimizer steps, instead of epochs. accumulate: parts that a batch is computed in, one after the
        other, to save memory; the result is that of the whole batch, but relations of embeddings are those
        within a part. momentum: of ``sgd``.
    schedule: how the learning rate falls, counted in optimizer steps. warmup: share of the steps in which
        it rises from zero.
    clip_norm: longest gradient, or None. held_back: none, unless asked for. evaluate_every: optimizer steps
        between evaluations; None: an epoch.
    checkpoint_every: optimizer steps, where there is a folder.
    learn_statistics: whether batch normalization goes on learning its statistics and dropout drops; None:
        in a module of the user's, and in a graph where ``normalize`` is set.
    normalize: put a batch normalization behind each convolution of a graph for the time of the training.
    temperature: T of the softened scores. alpha: share of the labels' loss where there is a teacher too.
    features: names of inner values to learn from the teacher, or ``matched``: of the same name and shape.
    feature_weight: how much they count. attention: compare maps of attention instead of values.
    threads: of this process, None for torch's choice.
    """

    steps: Count | None = None
    accumulate: Count = 1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    clip_norm: Positive | None = 1.0
    held_back: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    evaluate_every: Count | None = None
    checkpoint_every: Count = 100
    seed: Annotated[int, Field(ge=0)] = 0
    learn_statistics: bool | None = None
    normalize: bool = False
    temperature: Positive = 4.0
    alpha: Share = 0.0
    features: Literal["matched"] | tuple[str, ...] = ()
    feature_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    attention: bool = False
    threads: Count | None = None

"""From a model, data and settings to a task: who learns what from whom, on which samples."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hasten.bridge.dtypes import to_numpy
from hasten.core.data import LABELS, Array, Dataset
from hasten.core.errors import DataError, InputError
from hasten.graph import Graph
from hasten.train import teaching
from hasten.train.history import Listener
from hasten.train.labels import from_labels
from hasten.train.loop import Task
from hasten.train.network import Intake, Network
from hasten.train.objective import Loss, Metric, Objective, Term, of_user
from hasten.train.order import Order, hold_back, shapes_of
from hasten.train.regularizer import Regularizer
from hasten.train.samples import Samples
from hasten.train.settings import CHANGEABLE, Settings
from hasten.train.subnetworks import Subnetworks

_LOOKED_AT = 64
Model: TypeAlias = Graph | nn.Module


def inner_names(model: Model, teacher: Model | None, settings: Settings) -> tuple[str, ...]:
    """The inner values to learn; raises InputError when they cannot be found out."""
    if not settings.features:
        return ()
    if teacher is None:
        raise InputError("features are learned from a teacher, and there is none")
    if settings.features != "matched":
        return settings.features
    if not (isinstance(model, Graph) and isinstance(teacher, Graph)):
        raise InputError("features are matched between graphs; name the submodules of modules")
    return teaching.matched(model, teacher)


class Preparation:
    """Looks at the data and at what the models make of some samples, and decides."""

    def __init__(
        self,
        model: Model,
        teacher: Model | None,
        data: Dataset,
        settings: Settings,
        accelerator: Accelerator,
        regularizer: Regularizer | None,
        subnetworks: Subnetworks | None,
    ) -> None:
        """Draw the samples to train on and those held back."""
        self._model = model
        self._teacher = teacher
        self._data = data
        self._settings = settings
        self._accelerator = accelerator
        self._regularizer = regularizer
        self._subnetworks = subnetworks
        train, held = hold_back(data.indices, settings.held_back, settings.seed)
        self._train = train
        # Data are often sorted: what they are like is told by samples from all over.
        self._looked = Dataset(data.store, train).take(_LOOKED_AT).indices
        shapes = shapes_of(data, [*train, *held])
        self._order = Order({i: shapes[i] for i in train}, settings.batch_size, settings.seed)
        self._held_order = Order({i: shapes[i] for i in held}, settings.batch_size, settings.seed)
        self._held = held
        self._samples = Samples(data, settings.augment, settings.seed)

    def task(
        self,
        network: Network,
        loss: Loss | None,
        listener: Listener,
        folder: Path | None,
        learns: bool,
    ) -> Task:
        """Everything decided; raises InputError or DataError when something does not fit together."""
        for model in (self._model, self._teacher):
            self._check_inputs(model)
        intake = Intake.of(self._model, self._data)
        teacher = Network.of(self._teacher, network.inner) if self._teacher is not None else None
        teacher_intake = Intake.of(self._teacher, self._data) if self._teacher is not None else intake
        seen = self._look(network, intake)
        taught = self._look(teacher, teacher_intake) if teacher is not None else {}
        objective = self._objective(network, teacher, seen, taught, loss)
        sizes = [i.most for i in (intake, teacher_intake) if i.most]
        largest = min(sizes) * self._accelerator.num_processes if sizes else None
        return Task(
            network=network,
            intake=intake,
            teacher=teacher,
            teacher_intake=teacher_intake,
            objective=objective,
            regularizer=self._regularizer,
            subnetworks=self._subnetworks,
            order=self._order,
            samples=self._samples,
            held=list(
                self._held_order.parts(self._held, -(-len(self._held) // self._settings.batch_size), largest)
            )
            if self._held
            else [],
            largest=largest,
            settings=self._settings,
            learn_statistics=learns,
            folder=folder,
            identity=self._identity(loss),
            listener=listener,
        )

    def _check_inputs(self, model: Model | None) -> None:
        if not isinstance(model, Graph):
            return
        names = [spec.name for spec in model.inputs]
        given = self._data.axes
        if not set(names) <= set(given) and len(names) != len(given):
            raise DataError(f"the model takes {', '.join(names)}; the data have {', '.join(given)}")

    def _look(self, network: Network, intake: Intake) -> dict[str, list[Array]]:
        """What a network makes of some samples, by name, an array a sample."""
        network.place(self._accelerator.device)
        network.set_mode(False, False)
        found: dict[str, list[Array]] = {}
        looked = self._looked
        for part in self._order.parts(looked, max(1, len(looked) // self._settings.batch_size), intake.most):
            batch = self._samples.load(part, None).to(self._accelerator.device)
            with torch.no_grad():
                outputs = intake.run(network, batch)
            for name, value in outputs.items():
                if value.ndim and len(value) == len(batch):
                    found.setdefault(name, []).extend(to_numpy(value.float() if _is_float(value) else value))
        return found

    def _objective(
        self,
        network: Network,
        teacher: Network | None,
        seen: dict[str, list[Array]],
        taught: dict[str, list[Array]],
        loss: Loss | None,
    ) -> Objective:
        settings = self._settings
        terms: list[Term] = []
        metric: Metric | None = None
        share = settings.alpha if teacher is not None else 1.0
        if share > 0:
            made, metric = self._own(network, seen, loss)
            terms.append(dataclasses.replace(made, weight=share))
        if teacher is not None and share < 1:
            pairs = teaching.pair_outputs(network.outputs, teacher.outputs)
            learned, agreement = teaching.from_teacher(pairs, seen, taught, settings)
            learned += teaching.from_features(network.inner, seen, taught, settings)
            terms += [dataclasses.replace(term, weight=term.weight * (1 - share)) for term in learned]
            metric = metric or agreement
        return Objective(tuple(terms), metric)

    def _own(
        self, network: Network, seen: dict[str, list[Array]], loss: Loss | None
    ) -> tuple[Term, Metric | None]:
        """The term of the labels or of the user's loss."""
        if loss is not None:
            return of_user(loss), None
        if not self._data.has_labels:
            raise InputError(
                "there is nothing to learn from: the data have no labels; give a teacher (such as the model "
                "before it was changed), a loss, or labels"
            )
        self._refuse_places()
        first = self._order_of_look()
        rest = [i for i in self._data.indices if i not in set(first)]
        labels = [self._data.store.value(LABELS, i) for i in (*first, *rest)]
        return from_labels({name: seen[name] for name in network.outputs if name in seen}, labels)

    def _order_of_look(self) -> list[int]:
        """The samples of ``_look`` in the order that it saw them: those of one shape together."""
        return [i for part in self._order.parts(self._looked, 1, None) for i in part]

    def _refuse_places(self) -> None:
        """Raise DataError where pictures would be moved and what their labels say of places would not."""
        axes = len(self._data.store.shape(LABELS, self._train[0]))
        if self._settings.augment and axes > 1:
            raise DataError(
                f"a label has {axes} axes, so it speaks of places, and augment moves pictures alone: leave "
                "augment out, or learn from a teacher (alpha 0)"
            )

    def _identity(self, loss: Loss | None) -> dict[str, Any]:
        settings = {k: v for k, v in dataclasses.asdict(self._settings).items() if k not in CHANGEABLE}
        indices = hashlib.sha256(np.asarray(self._data.indices, dtype=np.int64).tobytes()).hexdigest()
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
        return {
            **plain,
            "model": _fingerprint(self._model, with_weights=False),
            "teacher": _fingerprint(self._teacher, with_weights=True),
            "data": self._data.store.sha256,
            "samples": indices,
            "regularizer": None if self._regularizer is None else self._regularizer.identity,
            "subnetworks": None if self._subnetworks is None else self._subnetworks.identity,
            "loss": None if loss is None else getattr(loss, "__qualname__", type(loss).__qualname__),
        }


def _fingerprint(model: Model | None, *, with_weights: bool) -> str | None:
    """SHA-256 of a model. Of a module to be trained only names and shapes count: its weights are replaced."""
    if model is None or isinstance(model, Graph):
        return model.fingerprint if model is not None else None
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            if with_weights:
                digest.update(to_numpy(tensor).tobytes())
    return digest.hexdigest()


def _is_float(value: Tensor) -> bool:
    return value.is_floating_point() and value.dtype in (torch.float16, torch.bfloat16)

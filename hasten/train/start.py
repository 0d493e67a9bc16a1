"""``fit``: from a model, data and settings to a task, and the loop that carries it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hasten.bridge.module import GraphModule
from hasten.core.data import Dataset
from hasten.core.errors import DataError, InputError
from hasten.graph import Graph
from hasten.train import checkpoint as checkpoints
from hasten.train.history import Fitted, Listener, silent
from hasten.train.loop import Trainer
from hasten.train.network import Network
from hasten.train.normalized import Normalized, normalized
from hasten.train.objective import Loss
from hasten.train.prepare import Model, Preparation, inner_names
from hasten.train.regularizer import Regularizer
from hasten.train.settings import Settings
from hasten.train.subnetworks import Subnetworks
from hasten.train.world import accelerated


def fit(  # noqa: PLR0913 - what is trained, on what, and how; each is one decision of the caller's
    model: Model,
    data: Dataset,
    *,
    settings: Settings | None = None,
    teacher: Model | None = None,
    loss: Loss | None = None,
    regularizer: Regularizer | None = None,
    subnetworks: Subnetworks | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    listener: Listener = silent,
) -> Fitted:
    """Train a graph, or a module in place, on labels, on a teacher, or on both (``Settings.alpha``).

    loss: the user's own instead of the labels': a function of the outputs by name and the ``Batch`` that
    returns the mean over its samples. regularizer: what changes the weights after each step. subnetworks:
    parts of a graph that learn what it answers. folder: where checkpoints are kept; with ``resume`` the
    training in it goes on. Start it with ``torchrun`` to train on several processes.

    Raises InputError (DataError for the data, ModelError for operators the bridge lacks, OutputError for the
    folder), TrainingError when the loss is no number any more or the processes do not work together.
    """
    settings = settings or Settings()
    if model is teacher and isinstance(model, nn.Module):
        raise InputError("a module cannot teach itself: give a copy as the teacher")
    if regularizer is not None and regularizer.final and settings.patience is not None:
        raise InputError("patience waits for better weights, and here the last ones count: leave it out")
    if not len(data):
        raise DataError("there are no samples to train on")
    if settings.normalize and not isinstance(model, Graph):
        raise InputError("normalize is for graphs: a module has the normalizations it was written with")
    if subnetworks is not None and not (isinstance(model, Graph) and isinstance(teacher, Graph)):
        raise InputError("subnetworks are of a graph that learns from a graph")
    if resume and folder is None:
        raise InputError("resume needs the folder that the training keeps its checkpoints in: give folder")
    learns = settings.learn_statistics
    learns = settings.normalize or not isinstance(model, Graph) if learns is None else learns
    before = checkpoints.random_state()
    found = [_Found.of(m, with_modes=m is teacher) for m in (model, teacher) if isinstance(m, nn.Module)]
    try:
        with accelerated(settings) as accelerator:
            torch.manual_seed(settings.seed + accelerator.process_index)
            made = _normalized(model, data, settings)
            network = Network.of(made.graph if made else model, inner_names(model, teacher, settings))
            trained, frozen = network.freeze(settings, made.own if made else frozenset())
            preparation = Preparation(model, teacher, data, settings, accelerator, regularizer, subnetworks)
            place = None if folder is None else Path(folder)
            trainer = Trainer(preparation.task(network, loss, listener, place, learns), accelerator)
            if place is not None:
                checkpoints.open_folder(place, resume)
                accelerator.wait_for_everyone()
                if resume:
                    trainer.restore(place)
            trainer.run()
    finally:
        checkpoints.restore_random_state(*before)
        for each in found:
            each.restore()
    if isinstance(model, Graph):
        network.to("cpu")
    graph = network.module.to_graph() if isinstance(network.module, GraphModule) else None
    return Fitted(
        graph=made.folded(graph) if graph is not None and made is not None else graph,
        module=network.module,
        history=trainer.history,
        why=trainer.why,
        best_step=trainer.best_step,
        trained=trained,
        frozen=frozen,
        notes=(*trainer.notes, *filter(None, [trainer.history.warning()])),
    )


def _normalized(model: Model, data: Dataset, settings: Settings) -> Normalized | None:
    if not settings.normalize or not isinstance(model, Graph):
        return None
    return normalized(model, data, settings)


@dataclass(frozen=True)
class _Found:
    """How a module of the user's was found: where, and by name what requires gradients and what trains."""

    module: nn.Module
    device: torch.device
    trained: Mapping[str, bool]
    modes: Mapping[str, bool] | None

    @classmethod
    def of(cls, module: nn.Module, *, with_modes: bool) -> _Found:
        first = next(module.parameters(), None)
        return cls(
            module,
            torch.device("cpu") if first is None else first.device,
            {name: weight.requires_grad for name, weight in module.named_parameters()},
            {name: part.training for name, part in module.named_modules()} if with_modes else None,
        )

    def restore(self) -> None:
        self.module.to(self.device)
        for name, weight in self.module.named_parameters():
            weight.requires_grad_(self.trained[name])
        for name, part in self.module.named_modules():
            part.training = part.training if self.modes is None else self.modes[name]

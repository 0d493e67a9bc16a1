"""From what the user gave to what the search works on: a checked graph on disk, data in roles, facts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hasten import data, loaders
from hasten.core.data import LABELS, Array, Dataset, Roles, Store, split
from hasten.core.errors import DataError, OutputError
from hasten.core.named import is_name
from hasten.core.paths import exists
from hasten.core.recipe import Recipe
from hasten.core.record import DataInfo
from hasten.core.target import TargetSpec
from hasten.graph import Graph
from hasten.loaders.loaded import Loaded
from hasten.search.build import Workshop
from hasten.search.facts import GraphFacts, read_facts
from hasten.search.machine import usable_targets
from hasten.search.request import Request


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The original on disk, the data in their roles, and the facts the search starts from.

    identity: what must be the same for a run to be resumed.
    """

    loaded: Loaded
    original: Path
    roles: Roles
    data_info: DataInfo
    facts: GraphFacts
    specs: tuple[TargetSpec, ...]
    workshop: Workshop
    identity: dict[str, str]

    @property
    def graph(self) -> Graph:
        """The original."""
        return self.loaded.graph


def prepare(request: Request, threads: int) -> Prepared:
    """Load the model, copy the data, split them, read the facts; raises InputError."""
    folder = request.folder
    specs = usable_targets(request.target)
    loaded = loaders.read(
        request.model,
        inputs=request.inputs,
        shapes=request.shapes,
        samples=None if request.inputs else to_trace(request.model, request.data),
        work=folder,
    )
    store_folder = folder / "store"
    try:
        shutil.rmtree(store_folder, ignore_errors=True)
        original = folder / "original.onnx"
        loaded.graph.stripped().write(original)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    roles, data_info = _roles(request, loaded.graph, store_folder)
    roles.save()
    _check_batch(loaded.graph, roles, request.batch)
    inputs = loaded.graph.inputs
    few = roles.calibration.take(2).batches_for(inputs, request.batch)
    loaders.check(loaded, [batch.feeds(inputs) for batch in few])
    settings = {"seed": request.seed, "threads": threads, "batch": request.batch}
    workshop = Workshop(original, store_folder, folder, settings)
    cost = workshop.cost(workshop.apply(Recipe()))
    return Prepared(
        loaded=loaded,
        original=original,
        roles=roles,
        data_info=data_info,
        facts=read_facts(loaded.graph, cost.layers),
        specs=specs,
        workshop=workshop,
        identity={
            "model": loaded.graph.fingerprint,
            "data": " ".join(info.sha256 for info in (data_info, data_info.train) if info),
            "settings": repr(
                (_named(request.metric), request.target, request.batch, request.threads, request.seed)
            ),
            "budget": repr((request.budget.max_drop, request.budget.points, request.budget.objective)),
        },
    )


def _named(metric: object) -> object:
    """A metric as every process calls it: of a function its name, since its ``repr`` holds an address."""
    if not callable(metric):
        return metric
    named = metric if hasattr(metric, "__qualname__") else type(metric)
    return f"{named.__module__}:{named.__qualname__}"


def _roles(request: Request, graph: Graph, folder: Path) -> tuple[Roles, DataInfo]:
    """The data in their roles, in a store, and where they came from."""
    store, notes = data.ingest(request.data, graph.inputs, folder, seed=request.seed)
    if request.train is None:
        roles = split(store, request.seed)
        return roles, _info(store, notes, (roles.calibration, roles.selection, roles.holdout))
    roles = split(store, request.seed, calibrate=False)
    train, train_notes = data.ingest(request.train, graph.inputs, roles.train_folder, seed=request.seed)
    roles = roles.taught_by(train)
    shared = len(train) - len(roles.calibration)
    if shared == len(train):
        raise DataError(f"all samples of {train_notes.source} are compared on too; give others to learn from")
    if shared:
        note = f"{shared} of its samples are left out: they are among those that are compared on"
        train_notes = replace(train_notes, notes=(*train_notes.notes, note))
    info = _info(store, notes, (roles.selection, roles.holdout))
    return roles, info.model_copy(update={"train": _info(train, train_notes, (roles.calibration,))})


def _info(store: Store, notes: data.DataNotes, roles: Sequence[Dataset]) -> DataInfo:
    return DataInfo(
        sha256=store.sha256,
        source=notes.source,
        samples=len(store),
        labelled=LABELS in store.fields,
        splits={role.role: len(role) for role in roles},
        notes=notes.notes,
    )


def to_trace(model: object, given: object) -> list[dict[str, Array]] | None:
    """The first sample of data, to trace a module with; None for a model that says what it takes."""
    if isinstance(model, str):
        is_module = is_name(model) and not exists(Path(model))
    else:
        is_module = not isinstance(model, Path | Graph) and callable(model)
    return [data.example(given)] if is_module else None


def _check_batch(graph: Graph, roles: Roles, batch: int) -> None:
    """Refuse a batch size that the model's fixed dimensions do not allow; raises DataError."""
    sample = roles.store.sample(0)
    for spec in graph.inputs:
        if spec.shape is None or len(spec.shape) == sample[spec.name].ndim:
            fixed: object = 1 if spec.shape is not None else None
        else:
            fixed = spec.shape[0]
        if isinstance(fixed, int) and fixed != batch:
            raise DataError(f"input {spec} takes {fixed} samples at a time, not {batch}; use --batch {fixed}")


def probe_shapes(prepared: Prepared, batch: int) -> dict[str, tuple[int, ...]]:
    """The shapes that inputs with dynamic dimensions have in the data; empty when all are fixed already."""
    if not prepared.facts.dynamic:
        return {}
    inputs = prepared.graph.inputs
    feeds = next(prepared.roles.selection.take(batch).batches_for(inputs, batch)).feeds(inputs)
    return {name: tuple(feeds[name].shape) for name in prepared.facts.dynamic}

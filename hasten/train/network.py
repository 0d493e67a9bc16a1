"""A graph or a module behind one call: inputs by name, outputs and inner values by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hasten.bridge.module import GraphModule
from hasten.core.data import Array, Dataset
from hasten.core.errors import InputError, ModelError
from hasten.graph import Graph
from hasten.train.samples import Batch
from hasten.train.settings import Basics

_TRAINED = (torch.float32, torch.float64)
_STATISTICS = (nn.modules.batchnorm._NormBase,)


class Network(nn.Module):
    """Runs a ``GraphModule`` or a module of the user's.

    inner: values besides the outputs to give: names in the graph, or of the module's submodules.
    """

    def __init__(self, module: nn.Module, inner: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.inner = tuple(inner)
        self.graph = module.graph if isinstance(module, GraphModule) else None
        self.outputs: tuple[str, ...] = ()
        if isinstance(module, GraphModule):
            self.outputs = module.output_names[: len(module.output_names) - len(inner)]
        else:
            self._refuse_unknown()

    @classmethod
    def of(cls, model: Graph | nn.Module, inner: Sequence[str] = ()) -> Network:
        """The network of a graph or a module; raises ModelError for operators the bridge lacks."""
        return cls(GraphModule(model, inner) if isinstance(model, Graph) else model, inner)

    def _refuse_unknown(self) -> None:
        known = dict(self.module.named_modules())
        for name in self.inner:
            if name not in known:
                raise ModelError(f"the module has no submodule {name!r} to take features from")

    @contextmanager
    def _watched(self) -> Iterator[dict[str, Any]]:
        """What the submodules named in ``inner`` give, meanwhile."""
        seen: dict[str, Any] = {}

        def keep(module: nn.Module, given: Any, value: Any, name: str) -> None:
            seen[name] = value

        parts = dict(self.module.named_modules()) if self.inner else {}
        hooks = [parts[name].register_forward_hook(partial(keep, name=name)) for name in self.inner]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs and inner values by name. Raises InputError when the inputs cannot be told apart."""
        if isinstance(self.module, GraphModule):
            wanted = self.module.input_names
            given = [feeds[name] for name in wanted] if set(wanted) <= set(feeds) else list(feeds.values())
            if len(given) != len(wanted):
                raise InputError(f"the model takes {', '.join(wanted)}; the data have {', '.join(feeds)}")
            found = self.module(*given)
            values = found if isinstance(found, tuple) else (found,)
            return dict(zip(self.module.output_names, values, strict=True))
        by_name = set(feeds) <= set(inspect.signature(self.module.forward).parameters)
        with self._watched() as seen:
            found = self.module(**feeds) if by_name else self.module(*feeds.values())
        named = _by_name(found)
        self.outputs = tuple(named)
        return {**named, **{name: _feature(name, seen.get(name)) for name in self.inner}}

    def masked(self, masks: Mapping[str, Array]) -> AbstractContextManager[None]:
        """The part of a graph that is left by these masks of its weights, as long as it lasts."""
        if not masks:
            return nullcontext()
        assert isinstance(self.module, GraphModule)
        weights = self.module.state_dict()
        return self.module.masked({n: torch.from_numpy(m).to(weights[n]) for n, m in masks.items()})

    def place(self, device: torch.device) -> None:
        """Move to a device; on a CPU, with the channels of a graph's convolutions last.

        One weight laid out so lays out all that is computed from it, and a CPU's convolutions are faster with
        channels side by side, forward and back: 1.1 to 1.5 times on four of five networks, 0.87 on one with
        small pictures and many channels (benchmarks/channels_last.py).
        """
        self.to(device)
        if self.graph is None or device.type != "cpu":
            return
        for weight in self.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def set_mode(self, training: bool, learn_statistics: bool | None) -> None:
        """Training or inference; in training, whether statistics are learned and dropout drops."""
        learns = self.graph is None if learn_statistics is None else learn_statistics
        if self.graph is not None:
            self.module.train(training and learns)
            return
        self.module.train(training)
        if training and not learns:
            for part in self.module.modules():
                if isinstance(part, (*_STATISTICS, nn.modules.dropout._DropoutNd)):
                    part.eval()

    def freeze(self, settings: Basics, added: Collection[str] = ()) -> tuple[tuple[str, ...], dict[str, str]]:
        """Leave only the weights to train trainable; returns their names, and the others with the reason.

        added: names of weights that are there for the training alone: they are trained, and not told of.
        Raises InputError when none is left.
        """
        trained, frozen = [], {}
        for name, weight in self.module.named_parameters():
            if name in added:
                continue
            reason = _frozen(name, weight, settings)
            if reason is None:
                trained.append(name)
            else:
                weight.requires_grad_(False)
                frozen[name] = reason
        if not trained:
            raise InputError(
                f"there is no weight to train: {len(frozen)} weights, "
                f"{'; '.join(sorted(set(frozen.values()))) or 'none stored as floating-point numbers'}"
            )
        return tuple(trained), frozen


def _feature(name: str, value: Any) -> Tensor:
    """What a submodule gave; raises ModelError where that is no tensor."""
    if isinstance(value, Tensor):
        return value
    said = "was not called" if value is None else f"gives {type(value).__name__}, not a tensor"
    raise ModelError(f"the submodule {name!r} {said}: take features from another")


def _frozen(name: str, weight: nn.Parameter, settings: Basics) -> str | None:
    if not weight.requires_grad:
        return "does not require a gradient"
    if weight.dtype not in _TRAINED:
        return f"is stored as {str(weight.dtype).removeprefix('torch.')}, and training needs float32"
    if not settings.trains(name):
        return f"does not match {' or '.join(settings.patterns)}"
    return None


def _by_name(found: Any) -> dict[str, Tensor]:
    """A module's result by name; raises ModelError for what is no tensor."""
    if isinstance(found, Tensor):
        return {"output": found}
    pairs = found.items() if isinstance(found, Mapping) else ((f"output{i}", v) for i, v in enumerate(found))
    named = {str(name): value for name, value in pairs if isinstance(value, Tensor)}
    if not named:
        raise ModelError(f"the module returns {type(found).__name__} without a tensor in it")
    return named


@dataclass(frozen=True)
class Intake:
    """How a model takes samples: ``fixed`` at a time (None: any number).

    bare: inputs without an axis for the samples. rows: whether outputs have one.
    """

    fixed: int | None = None
    bare: frozenset[str] = frozenset()
    rows: bool = True

    @property
    def most(self) -> int | None:
        """The most samples that it takes at a time; None for any number."""
        return 1 if self.bare else self.fixed

    def run(
        self, network: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], batch: Batch
    ) -> dict[str, Tensor]:
        """Outputs with a row a sample; a fixed number is made up by repeating the last sample.

        Several rows of an output for each sample (of its tokens, say) become an axis of their own.
        """
        feeds = {name: tensor[0] if name in self.bare else tensor for name, tensor in batch.inputs.items()}
        count = len(batch)
        missing = (self.fixed or count) - count
        if missing:
            feeds = {
                n: t if n in self.bare else torch.cat([t, t[-1:].expand(missing, *t.shape[1:])])
                for n, t in feeds.items()
            }
        found = network(feeds)
        if not self.rows:
            return {name: value.unsqueeze(0) for name, value in found.items()}
        return {name: _by_sample(value, count, count + missing) for name, value in found.items()}

    @classmethod
    def of(cls, model: Graph | nn.Module, data: Dataset) -> Intake:
        """Read it off a graph's inputs."""
        if not isinstance(model, Graph):
            return cls()
        shapes = {spec.name: spec.shape for spec in model.inputs if spec.name in data.axes}
        bare = {n for n, shape in shapes.items() if shape is not None and len(shape) == data.axes[n]}
        return cls(data.fixed_batch(model.inputs), frozenset(bare), rows=not bare or len(bare) < len(shapes))


def _by_sample(value: Tensor, count: int, run: int) -> Tensor:
    """The rows of ``count`` samples out of an output for ``run`` samples."""
    if not value.ndim or (len(value) == run == count):
        return value
    if len(value) == run:
        return value[:count]
    many, left = divmod(len(value), run)
    return value if left or not many else value.reshape(run, many, *value.shape[1:])[:count]

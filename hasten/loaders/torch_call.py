"""How a PyTorch module is called: its inputs by name, example values, which axes are dynamic."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any

import numpy as np
import torch

from hasten.core.data import Array
from hasten.core.errors import InputError
from hasten.loaders.shapes import parse_input


@dataclass(frozen=True)
class Call:
    """How a module is called.

    names: of the inputs, in order. by_keyword: whether they are ``forward``'s own argument names.
    runs: tensors in the order of ``names``, for each run. varying: axes other than the first that differ
    between runs, for each input.
    """

    names: tuple[str, ...]
    by_keyword: bool
    runs: tuple[tuple[torch.Tensor, ...], ...]
    varying: tuple[frozenset[int], ...]

    @classmethod
    def of(
        cls, module: torch.nn.Module, inputs: Sequence[str], samples: Sequence[Mapping[str, Array]] | None
    ) -> Call:
        """Match specs or samples with ``forward``; raises InputError."""
        signature = inspect.signature(module.forward)
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        specs = [parse_input(text) for text in inputs]
        if not specs and not samples:
            raise InputError(
                f"what does {type(module).__name__} take? its forward is {_written(signature)}; give --input "
                "NAME=1x3x224x224 (or NAME=1x64:int64) for each input, or data"
            )
        given = [spec.name for spec in specs] or list((samples or [{}])[0])
        names, by_keyword = _match(signature, given, type(module).__name__)
        if samples:
            runs = [
                tuple(torch.from_numpy(np.array(run[name])).to(device) for name in names) for run in samples
            ]
        else:
            by_name = {spec.name: spec for spec in specs}
            runs = [tuple(_filled(by_name[n].shape or (), by_name[n].dtype).to(device) for n in names)]
        varying = tuple(
            frozenset(axis for axis in range(1, run[0].ndim) if len({t.shape[axis] for t in run}) > 1)
            for run in zip(*runs, strict=True)
        )
        return cls(names, by_keyword, tuple(runs), varying)

    def arguments(self, tensors: Sequence[torch.Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for a call."""
        if self.by_keyword:
            return (), dict(zip(self.names, tensors, strict=True))
        return tuple(tensors), {}

    @property
    def signature(self) -> inspect.Signature:
        """Of a function that takes the inputs in order, by their names where Python allows that."""
        usable = all(name.isidentifier() and not iskeyword(name) for name in self.names)
        names = self.names if usable else tuple(f"input_{i}" for i in range(len(self.names)))
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def dynamic(self, batch: Any) -> tuple[dict[int, Any], ...]:
        """For torch.export, by input: ``batch`` for every first axis, AUTO for those that vary."""
        return tuple(
            {0: batch, **dict.fromkeys(axes, torch.export.Dim.AUTO)} if tensor.ndim else {}
            for tensor, axes in zip(self.runs[0], self.varying, strict=True)
        )


def _match(signature: inspect.Signature, given: Sequence[str], who: str) -> tuple[tuple[str, ...], bool]:
    """The inputs in the order of ``forward``, and whether they are passed by keyword."""
    parameters = signature.parameters
    open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    by_name = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    known = [name for name in given if name in by_name]
    keyword = bool(known) or (open_ended and not by_name)
    names = tuple(sorted(given, key=list(parameters).index)) if len(known) == len(given) else tuple(given)
    tokens = [object() for _ in names]
    try:
        if keyword:
            signature.bind(**dict(zip(names, tokens, strict=True)))
        else:
            signature.bind(*tokens)
    except TypeError as error:
        raise InputError(
            f"inputs {', '.join(given)} do not fit {who}, whose forward is {_written(signature)}: {error}; "
            "name the inputs as forward's arguments"
        ) from error
    return names, keyword


def _written(signature: inspect.Signature) -> str:
    return f"forward({', '.join(signature.parameters)})"


def _filled(shape: Sequence[int | str | None], dtype: str) -> torch.Tensor:
    """Example values: normal for floats, ones otherwise (any index is valid, any mask lets through)."""
    kind = getattr(torch, dtype)
    sizes = [size for size in shape if isinstance(size, int)]
    if kind.is_floating_point:
        return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(kind)
    return torch.ones(sizes, dtype=kind)


def doubled(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """The same with at least two samples: torch.export takes an axis of size 1 for a fixed one."""
    return tuple(torch.cat([t, t]) if t.ndim and t.shape[0] == 1 else t for t in tensors)

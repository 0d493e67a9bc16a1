"""Activations that a cheaper one can stand for, fitted to what they read.

Why these: ONNX Runtime and OpenVINO take several times as long for Mish and Softplus as for anything made of
Sigmoid or Clip, and longer for Sigmoid than for HardSigmoid. Gelu has kernels that are as fast as what would
stand for it.

Sources: Howard et al. 2019, "Searching for MobileNetV3", section 5.2 (hard sigmoid and swish); Misra 2019,
"Mish: A Self Regularized Non-Monotonic Activation Function", eq. 1; Ramachandran et al. 2017, "Searching for
Activation Functions", section 5 (x·σ(βx)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from hasten.core.data import Array, Calibration
from hasten.graph import Graph
from hasten.graph.editor import Editor
from hasten.graph.names import layer_name
from hasten.graph.reading import given
from hasten.methods import Context
from hasten.methods._observe.samples import observed

Function: TypeAlias = Callable[[Array, float], Array]

_TRIED = np.linspace(0.05, 3.0, 60)
"""Slopes among which the best is looked for: finer than a hundredth of any activation's error."""
_HARDSWISH_SINCE = 14
_NUMBERS = 4096


@dataclass(frozen=True, eq=False)
class Activation:
    """What computes an activation ``kind`` of ``value``; node: the last of its operators."""

    node: ir.Node
    value: ir.Value
    kind: str

    @property
    def name(self) -> str:
        """What reports and ``exclude`` call it."""
        return layer_name(self.node)


@dataclass(frozen=True)
class Cheaper:
    """What can stand for an activation. slope: of what it applies Sigmoid or HardSigmoid to, fitted."""

    name: str
    slope: float

    def __str__(self) -> str:
        return self.name if self.name == "HardSwish" else f"{self.name} of slope {self.slope:.2f}"

    def write(self, editor: Editor, found: Activation) -> None:
        """Put it into the activation's place."""
        x = found.value
        if self.name == "HardSigmoid":
            editor.replace(found.node, "HardSigmoid", [x], {"alpha": self.slope, "beta": 0.5})
        elif self.name == "HardSwish":
            editor.replace(found.node, "HardSwish", [x])
        else:
            stem = layer_name(found.node)
            slope = editor.constant(np.asarray(self.slope, np.float32), f"{stem}.slope")
            steeper = editor.insert(found.node, "Mul", [x, slope], name=f"{stem}.steeper")
            gate = editor.insert(found.node, "Sigmoid", [steeper], name=f"{stem}.gate")
            for value in (steeper, gate):
                value.type, value.shape = x.type, x.shape
            editor.replace(found.node, "Mul", [x, gate])


def _sigmoid(x: Array, slope: float = 1.0) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * slope * x))


def _swish(x: Array, slope: float = 1.0) -> Array:
    return x * _sigmoid(x, slope)


def _mish(x: Array) -> Array:
    return np.asarray(x * np.tanh(np.logaddexp(0.0, x)))


def _hard_sigmoid(x: Array, slope: float) -> Array:
    return np.clip(slope * x + 0.5, 0.0, 1.0)


def _hard_swish(x: Array, slope: float) -> Array:
    return x * np.clip(x / 6 + 0.5, 0.0, 1.0)


_EXACT: Mapping[str, Callable[[Array], Array]] = {"Sigmoid": _sigmoid, "Swish": _swish, "Mish": _mish}
_CHEAPER: Mapping[str, Mapping[str, Function]] = {
    "Sigmoid": {"HardSigmoid": _hard_sigmoid},
    "Swish": {"HardSwish": _hard_swish},
    "Mish": {"Swish": _swish, "HardSwish": _hard_swish},
}


def find_activations(main: ir.Graph) -> list[Activation]:
    """Those that something cheaper can stand for, in order."""
    whole = list(_whole(main))
    products = [found for found in whole if found.node.op_type == "Mul"]
    gates = [v for found in products for v in found.node.inputs if v is not None and v is not found.value]
    inner = {id(gate.producer()) for gate in gates}
    alone = [
        Activation(node, x, "Sigmoid")
        for node in main
        if node.op_type == "Sigmoid" and not node.domain and id(node) not in inner
        if (x := node.inputs[0]) is not None and x.dtype == ir.DataType.FLOAT
    ]
    order = {id(node): i for i, node in enumerate(main)}
    # What is stored is no activation, and is the same for every sample.
    computed = (found for found in (*whole, *alone) if not found.value.is_initializer())
    return sorted(computed, key=lambda found: order[id(found.node)])


def _whole(main: ir.Graph) -> Iterator[Activation]:
    """Mish and Swish, as operators of their own and as products."""
    for node in main:
        x = given(node, 0)
        if node.domain or x is None or x.dtype != ir.DataType.FLOAT:
            continue
        if node.op_type in {"Mish", "Swish"}:
            if node.attributes.get_float("alpha", 1.0) == 1.0:
                yield Activation(node, x, node.op_type)
        elif node.op_type == "Mul":
            for value, gate in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
                kind = None if value is None or gate is None else _gate(gate, value)
                if value is not None and kind is not None:
                    yield Activation(node, value, kind)
                    break


def _gate(gate: ir.Value, x: ir.Value) -> str | None:
    """The activation that x times this is."""
    node = gate.producer()
    if node is None or node.domain:
        return None
    if node.op_type == "Sigmoid" and node.inputs[0] is x:
        return "Swish"
    before = None if node.op_type != "Tanh" or node.inputs[0] is None else node.inputs[0].producer()
    same = before is not None and before.op_type == "Softplus" and before.inputs[0] is x
    return "Mish" if same else None


def cheaper(found: Activation, seen: Array, opset: int) -> list[Cheaper]:
    """What can stand for it. seen: what the activation reads on samples, in any shape."""
    x = seen.reshape(-1).astype(np.float64)
    exact = _EXACT[found.kind](x)
    made = []
    for name, function in _CHEAPER[found.kind].items():
        if name == "HardSwish":
            made += [Cheaper(name, 1.0)] if opset >= _HARDSWISH_SINCE else []
            continue
        errors = [float(np.square(function(x, float(slope)) - exact).sum()) for slope in _TRIED]
        made.append(Cheaper(name, float(_TRIED[int(np.argmin(errors))])))
    return made


def seen_by(
    graph: Graph, found: Sequence[Activation], samples: Calibration, context: Context
) -> dict[str, Array]:
    """Numbers that each activation reads, by its name, a few thousand of each batch at even distances."""
    names = list(dict.fromkeys(str(each.value.name) for each in found))
    seen: dict[str, list[Array]] = {name: [] for name in names}
    for part, values in observed(graph, names, samples, context):
        for name in part:
            flat = values[name].reshape(-1)
            seen[name].append(flat[:: max(1, flat.size // _NUMBERS)])
    return {each.name: np.concatenate(seen[str(each.value.name)]) for each in found}

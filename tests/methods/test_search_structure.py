"""search_structure: what it costs is what it says, and it is no worse than what it was searched among."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from branch_nets import residual_net as blocks_net
from clocked import times_of
from correlated_nets import batch_for, heads_net, residual_net, samples_for
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from small_graphs import Net, calibration_for

from hasten import methods
from hasten.core.data import Calibration
from hasten.core.errors import MethodError, RecipeError
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.graph.cost import layer_costs, total_macs
from hasten.graph.layer import OPERATORS
from hasten.graph.names import layer_name
from hasten.methods._observe.outputs import Outputs
from hasten.methods._structure import measure
from hasten.methods._structure.decisions import KINDS, STRUCTURE, Decision, Scope, harm
from hasten.methods._structure.evolve import Evolution
from hasten.methods._structure.make import made
from hasten.methods._structure.measure import measured
from hasten.methods._structure.prices import Prices

QUICK = {"align": 1, "tries": 1, "generations": 5}


def opened(graph: Graph, tmp_path) -> methods.Context:
    return methods.Context(calibration=samples_for(graph, tmp_path / "store"), work=tmp_path)


def run(graph: Graph, context: methods.Context, **params: object) -> methods.Change:
    step = Step("search_structure", {**QUICK, **params})
    return methods.apply(Recipe([step]), graph, context)


SCOPE = Scope(kinds=KINDS, align=1, least=0.1, samples=64)


def decisions_of(graph: Graph, context: methods.Context) -> tuple[Decision, ...]:
    return measured(graph, context.calibration, SCOPE, context)


def test_what_is_told_of_few_samples_holds_for_others(tmp_path):
    """Of samples that it was solved for, the error would be far less."""
    graph = residual_net()
    context = methods.Context(calibration=samples_for(graph, tmp_path / "store", 12), work=tmp_path)
    change = run(graph, context, left=0.6, among=("channels",))
    told = float(change.notes[1].split("outputs' error ")[1].split(" of")[0])

    def error(samples: Calibration) -> float:
        return Outputs(graph, samples, context).error(change.graph)

    found = error(samples_for(graph, tmp_path / "more", 200).take(100))
    assert error(context.calibration) < 0.5 * found
    assert told > 0.5 * found


@pytest.mark.parametrize("make", [residual_net, heads_net, blocks_net])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_choice_costs_is_what_the_graph_made_of_it_costs(make, seed, tmp_path):
    graph = make()
    context = opened(graph, tmp_path)
    decisions = tuple(d for d in decisions_of(graph, context) if d.kind not in {"ranks", "bits"})
    rng = np.random.default_rng(seed)
    choice = tuple(int(rng.integers(0, len(d.values))) if rng.random() < 0.5 else 0 for d in decisions)
    changed = made(graph, decisions, choice, SCOPE, context).graph
    wanted = total_macs(changed, batch_for(graph, 1, 0))
    assert Prices.of_graph(graph, decisions, context).of(choice) == pytest.approx(wanted, rel=1e-9)


def test_a_rank_costs_what_its_factors_cost(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    decisions = decisions_of(graph, context)
    ranked = [number for number, decision in enumerate(decisions) if decision.kind == "ranks"]
    assert ranked
    choice = tuple(1 if number == ranked[0] else 0 for number in range(len(decisions)))
    changed = made(graph, decisions, choice, SCOPE, context).graph
    wanted = total_macs(changed, batch_for(graph, 1, 0))
    assert Prices.of_graph(graph, decisions, context).of(choice) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("left", [0.9, 0.7, 0.5])
def test_no_more_is_left_than_was_asked_for(left, tmp_path):
    graph = residual_net()
    change = run(graph, opened(graph, tmp_path), left=left)
    feeds = batch_for(graph, 1, 0)
    assert total_macs(change.graph, feeds) / total_macs(graph, feeds) <= left
    assert change.notes[0].endswith("of the multiply-accumulates are left, as far as the model says")
    assert change.notes[1].endswith("kept")


@pytest.mark.parametrize(("make", "most"), [(residual_net, 1.5), (heads_net, 0.8)])
def test_all_kinds_together_do_less_harm_than_one(make, most, tmp_path):
    graph = make()
    context = opened(graph, tmp_path)
    outputs = Outputs(graph, context.calibration, context)
    feeds = batch_for(graph, 1, 0)

    def error(**params: object) -> float:
        change = run(graph, context, left=0.5, tries=4, generations=40, **params)
        if not change.effective:
            return np.inf
        assert total_macs(change.graph, feeds) / total_macs(graph, feeds) <= 0.5
        return outputs.error(change.graph)

    # Convolutions lose channels best, and only so; attention, feed-forward parts and ranks share it best.
    assert error() <= most * min(error(among=[kind]) for kind in STRUCTURE)


def test_layers_count_by_their_times(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    macs = {layer.name: layer.macs for layer in layer_costs(graph, batch_for(graph, 1, 0))}
    slow = "Conv_wide"
    times = {name: count / 1e5 for name, count in macs.items()} | {slow: 50.0}
    change = run(graph, context, left=0.7, times=times, among=["channels", "branches"])
    assert "layers' times are left" in change.notes[0]
    feeds = batch_for(graph, 1, 0)
    before, after = ({c.name: c.macs for c in layer_costs(g, feeds)} for g in (graph, change.graph))
    assert after.get(slow, 0) < before[slow]
    with pytest.raises(MethodError, match=r"times: no layer is called 'elsewhere'"):
        run(graph, context, times={"elsewhere": 1.0})


@pytest.mark.parametrize("make", [residual_net, heads_net])
@pytest.mark.parametrize("among", [("ranks",), STRUCTURE])
@pytest.mark.parametrize("machine", [{"overhead": 0.2}, {"overhead": 0.2, "per_mac": 1e-6}])
def test_what_is_left_takes_as_long_as_is_said(make, among, machine, tmp_path):
    """Also where weights and values take longer to move than to multiply."""
    graph = make()
    feeds = batch_for(graph, 1, 0)
    times = times_of(graph, feeds, **machine)
    change = run(graph, opened(graph, tmp_path), left=0.85, times=times, among=among)
    said = float(change.notes[0].split(": ")[1].split("%")[0])
    assert said <= 85.0
    left = sum(times_of(change.graph, feeds, **machine).values()) / sum(times.values())
    assert left == pytest.approx(said / 100, abs=0.005)


def test_a_rank_does_not_pay_where_operators_take_long_to_start(tmp_path):
    graph = residual_net()
    feeds = batch_for(graph, 1, 0)
    assert run(graph, opened(graph, tmp_path), left=0.8, align=1, among=["ranks"]).effective
    times = {name: 100.0 + time / 100 for name, time in times_of(graph, feeds).items()}
    change = run(graph, opened(graph, tmp_path), left=0.95, align=1, times=times, among=["ranks"])
    assert not change.effective
    assert change.skipped[0].reason == "no structure takes as little as 95%"


def test_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    graph = residual_net()
    context = opened(graph, tmp_path)
    first = run(graph, context, left=0.8)

    def refuse(*_args: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measure, "_measured", refuse)
    again = run(graph, context, left=0.8)
    assert again.graph.fingerprint == first.graph.fingerprint
    assert run(graph, context, left=0.6).graph.fingerprint != first.graph.fingerprint
    with pytest.raises(AssertionError, match="measured again"):
        run(graph, context, left=0.8, least=0.3)
    monkeypatch.setattr(measure, "_FIELDS", ["kind"])  # as another version of hasten had it
    with pytest.raises(AssertionError, match="measured again"):
        run(graph, context, left=0.8)


def test_what_cannot_be_reached_leaves_the_model_as_it_is(tmp_path):
    graph = residual_net()
    change = run(graph, opened(graph, tmp_path), left=0.01, least=0.9, among=["channels"])
    assert not change.effective
    assert change.graph.fingerprint == graph.fingerprint
    assert change.skipped[0].reason == "no structure takes as little as 1%"
    whole = run(graph, opened(graph, tmp_path / "other"), left=1.0)
    assert whole.skipped[0].reason == "nothing has to go"


def test_what_is_excluded_stays(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    free = {site.name for site in run(graph, context, left=0.6).sites}
    name = sorted(free)[0]
    assert name not in {site.name for site in run(graph, context, left=0.7, exclude=[name]).sites}


def test_rounds_take_it_further(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    step = Step("iterate", {"to": 0.6, "rounds": 2, "shrink": {"search_structure": QUICK}, "held_back": 0})
    change = methods.apply(Recipe([step]), graph, context)
    feeds = batch_for(graph, 1, 0)
    assert total_macs(change.graph, feeds) / total_macs(graph, feeds) <= 0.6


def test_wrong_parameters_are_refused(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    with pytest.raises(RecipeError, match=r"search_structure\.among"):
        run(graph, context, among=["kernels"])
    with pytest.raises(MethodError, match="--data"):
        run(graph, replace(context, calibration=None))


def in_8_bits(graph: Graph) -> set[str]:
    """The layers that read what was rounded, by name."""
    return {
        layer_name(node)
        for node in graph.ir_model.graph
        if node.op_type in OPERATORS
        and all(
            value.producer() is not None and value.producer().op_type == "DequantizeLinear"
            for value in node.inputs[:2]
        )
    }


def test_bits_are_chosen_with_the_rest(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    change = run(graph, context, left=0.3, among=KINDS, tries=2, generations=20)
    quantized = in_8_bits(change.graph)
    layers = {layer_name(n) for n in graph.ir_model.graph if n.op_type in OPERATORS}
    assert quantized
    assert "8 bits" in change.notes[1]
    outputs = Outputs(graph, context.calibration, context)
    alone = run(graph, context, left=0.3, among=STRUCTURE, tries=2, generations=20)
    # Eight bits harm a layer less than most of its channels going: a quarter of the cost is one or the other.
    assert outputs.error(change.graph) < outputs.error(alone.graph)
    some = run(graph, context, left=0.7, among=["bits"])
    assert set() < in_8_bits(some.graph) < layers
    assert {site.name for site in some.sites} >= in_8_bits(some.graph)
    assert all("quantiz" not in skip.reason for skip in some.skipped if skip.name in layers)


def test_bits_of_products_that_become_convolutions(tmp_path):
    graph = heads_net()
    context = opened(graph, tmp_path)
    quantize = {"layout": "openvino", "products": "convolutions"}
    kept = run(graph, context, left=0.6, among=["bits"], quantize={"layout": "openvino"})
    change = run(graph, context, left=0.6, among=["bits"], quantize=quantize)
    convolved = {node.name for node in change.graph.ir_model.graph if node.op_type == "Conv"}
    # What computes a product says nothing about the harm of rounding it.
    assert in_8_bits(change.graph) == in_8_bits(kept.graph) != set()
    assert convolved >= in_8_bits(change.graph)


def test_a_layer_of_lower_rank_is_quantized_with_its_factors(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    decisions = decisions_of(graph, context)
    name = next(d.name for d in decisions if d.kind == "ranks")
    choice = tuple(1 if d.name == name and d.kind in {"ranks", "bits"} else 0 for d in decisions)
    assert sum(choice) == 2
    assert in_8_bits(made(graph, decisions, choice, SCOPE, context).graph) == {name, f"{name}.first"}


def test_what_layers_take_in_8_bits_decides_which_do(tmp_path):
    graph = residual_net()
    context = opened(graph, tmp_path)
    times = {layer.name: 10.0 for layer in layer_costs(graph, batch_for(graph, 1, 0))}
    slow, *others = sorted(in_8_bits(run(graph, context, left=0.26, among=["bits"]).graph))
    in_int8 = {slow: 11.0} | dict.fromkeys(others, 2.0)
    left = (len(times) * 10.0 - 8.0 * len(others)) / (len(times) * 10.0)
    found = run(graph, context, left=left + 1e-6, among=["bits"], times=times, in_int8=in_int8)
    assert slow not in in_8_bits(found.graph)
    assert len(in_8_bits(found.graph)) == len(others)  # which of the rest is a matter of harm


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"in_int8": {"a": 1.0}}, "put bits among"),
        ({"quantize": {"layout": "openvino"}}, "put bits among"),
        ({"among": ["bits"], "in_int8": {"a": 1.0}}, "compared with times"),
        ({"among": ["bits"], "quantize": {"exclude": ["a"]}}, "leave exclude out"),
        ({"among": ["bits"], "quantize": {"layout": "tvm"}}, r"quantize\.quantize_static\.layout"),
    ],
)
def test_what_would_be_ignored_or_cannot_be_quantized_is_refused(params, message, tmp_path):
    graph = residual_net()
    with pytest.raises(RecipeError, match=message):
        run(graph, opened(graph, tmp_path), **params)


class Table:
    """Prices that are sums over layers, each the product of what its decisions leave."""

    def __init__(self, decisions: tuple[Decision, ...], layers: list[tuple[float, tuple[int, ...]]]) -> None:
        self._decisions = decisions
        self._layers = dict(enumerate(layers))
        self.whole = self.of((0,) * len(decisions))
        self.touched = [
            frozenset(name for name, (_, on) in self._layers.items() if number in on)
            for number in range(len(decisions))
        ]

    def of(self, choice, layers=None) -> float:
        total = 0.0
        for name in self._layers if layers is None else layers:
            cost, on = self._layers[name]
            for number in on:
                cost *= self._decisions[number].shares[choice[number]]
            total += cost
        return total


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[Decision, ...], Table]:
    decisions = []
    for number in range(draw(st.integers(2, 5))):
        options = draw(st.integers(2, 4))
        harms = np.cumsum([0.0, *(draw(st.floats(0.01, 1.0)) for _ in range(options - 1))])
        shares = tuple(1.0 - i / options for i in range(options))
        decisions.append(
            Decision("bits", str(number), tuple(range(options)), tuple(harms.tolist()), shares=shares)
        )
    some = st.lists(st.integers(0, len(decisions) - 1), min_size=1, max_size=3, unique=True)
    layers = [(draw(st.floats(1.0, 10.0)), tuple(draw(some))) for _ in range(draw(st.integers(2, 6)))]
    return tuple(decisions), Table(tuple(decisions), layers)


@settings(max_examples=60, deadline=None)
@given(problem=problems(), left=st.floats(0.4, 0.95))
def test_the_search_is_close_to_all_choices_tried(problem, left):
    decisions, prices = problem
    target = left * prices.whole
    every = itertools.product(*(range(len(d.values)) for d in decisions))
    fitting = [choice for choice in every if prices.of(choice) <= target]
    found = Evolution(decisions, prices, target, seed=0).best(3, population=32, generations=40)
    if not fitting:
        assert not found
        return
    assert prices.of(found[0]) <= target
    best = min(harm(decisions, choice) for choice in fitting)
    assert harm(decisions, found[0]) <= 1.02 * best + 1e-9
    assert harm(decisions, found[0]) == min(harm(decisions, choice) for choice in found)


@pytest.mark.parametrize("left", [0.7, 1.0])
@pytest.mark.parametrize("layers", [0, 1])
def test_where_nothing_can_go_nothing_is_searched(tmp_path, left, layers):
    net = Net(0)
    if layers:
        net.node("MatMul", ["x", net.weight("w", 6, 6)], "y")
    else:
        net.node("Relu", ["x"], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["batch", 6])], [("y", TensorProto.FLOAT, ["batch", 6])])
    context = methods.Context(calibration=calibration_for(graph, tmp_path / "store"), work=tmp_path)
    change = methods.apply(Recipe([Step("search_structure", {"left": left})]), graph, context)
    assert not change.effective
    assert change.skipped[0].reason == "nothing in it costs what could go"

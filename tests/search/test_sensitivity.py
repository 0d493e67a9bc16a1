"""Damages of layers and the choice of those to leave, on a real graph with one layer that int8 ruins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from small_graphs import Net

from hasten import methods
from hasten.core.data import Roles, Store, StoreWriter, split
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.loaders.shapes import fix_shapes
from hasten.search.build import cost_in_child
from hasten.search.sensitivity import Bench, choose_in_child, damages_in_child, errors_in_child

STURDY, FRAGILE = "MatMul_h", "MatMul_y"


def outliers() -> Graph:
    """Two layers, the second of which reads one value of a thousand times the others."""
    net = Net()
    net.node("MatMul", ["x", net.weight("a", 8, 8)], "h")
    net.node("Mul", ["h", net.constant("s", np.array([1000.0] + [1.0] * 7, np.float32))], "spread")
    net.node("MatMul", ["spread", net.constant("b", np.diag([0.0] + [1.0] * 7).astype(np.float32))], "y")
    return net.graph([("x", TensorProto.FLOAT, ["batch", 8])], [("y", TensorProto.FLOAT, ["batch", 8])])


def saved_case(tmp_path, graph: Graph, step: Step):
    """Arguments for a child: the graph and the data; the file of its changed version."""
    writer = StoreWriter(tmp_path / "store", ["x"])
    for sample in np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32):
        writer.append({"x": sample})
    store: Store = writer.close()
    roles = split(store, 0)
    roles.save()
    context = methods.Context(calibration=roles.calibration, work=tmp_path)
    change = methods.apply(Recipe([step]), graph, context)
    paths = {name: str(tmp_path / f"{name}.onnx") for name in ("graph", "changed")}
    graph.write(Path(paths["graph"]))
    change.graph.write(Path(paths["changed"]))
    place = {
        "graph": paths["graph"],
        "store": str(store.folder),
        "work": str(tmp_path),
        "original": paths["graph"],
        "settings": {"threads": 1, "seed": 0, "batch": 1},
    }
    return place, paths["changed"], {site.name: site.what for site in change.sites}


@pytest.fixture
def case(tmp_path):
    """The graph quantized: arguments for a child, the changed file, and what was changed."""
    return saved_case(tmp_path, outliers(), Step("quantize_static", {"layout": "openvino"}))


def test_the_layer_that_int8_ruins_is_found(case):
    place, changed, sites = case
    before, after = Graph.open(place["graph"]), Graph.open(changed)
    samples = Roles.open(Path(place["store"])).calibration
    bench = Bench(before, {"int8": after}, {"int8": sites}, samples, threads=1)
    damages = {name: forms["int8"] for name, forms in bench.damages(time_limit_s=5.0).items()}
    assert set(damages) == {STURDY, FRAGILE}
    assert damages[FRAGILE] > 100 * damages[STURDY]
    assert bench.error(bench.all_in("int8")) == pytest.approx(sum(damages.values()), rel=0.3)
    assert bench.error({}) < 1e-9


def choose(case, **aim):
    place, changed, sites = case
    given = {"now": ["int8"], "saves": {}, "fraction": 0.1, "time_limit_s": 5.0, **aim}
    return choose_in_child(**place, aim={"forms": {"int8": changed}, "names": {"int8": list(sites)}, **given})


def test_it_is_left_as_it_was(case):
    found = choose(case)
    assert found is not None
    assert found["forms"] == {FRAGILE: "left", STURDY: "int8"}
    assert found["error_after"] <= 0.1 * found["error_before"]


def test_nothing_is_chosen_where_nothing_is_enough(case):
    assert choose(case, fraction=1e-9) is None


def test_the_damage_of_graphs_as_they_are(case):
    place, changed, _ = case
    ruined, same = damages_in_child(**place, changed=[changed, place["graph"]])
    assert ruined is not None
    assert ruined > 0.01
    assert same == 0.0
    assert damages_in_child(**{**place, "store": None}, changed=[changed]) == [None]


def test_errors_are_alone_and_together(case):
    place, changed, sites = case
    errors = {e["name"]: e for e in errors_in_child(**place, changed=changed, sites=sites)}
    assert errors[FRAGILE]["sqnr_alone_db"] < errors[STURDY]["sqnr_alone_db"] - 10
    # What reads the model's input gets no errors of others.
    assert errors[STURDY]["sqnr_db"] == pytest.approx(errors[STURDY]["sqnr_alone_db"], abs=0.1)
    assert errors[FRAGILE]["sqnr_db"] <= errors[FRAGILE]["sqnr_alone_db"] + 0.5
    assert errors[STURDY]["action"] == sites[STURDY]


def test_a_layer_that_bfloat16_ruins_is_left_and_another_is_not(tmp_path):
    """The second layer takes differences of numbers around 1000, where steps of bfloat16 are 4."""
    net = Net()
    net.node("MatMul", ["x", net.weight("a", 8, 8)], "h")
    net.node("Add", ["h", net.constant("far", np.float32(1000))], "moved")
    difference = np.eye(8, dtype=np.float32) - np.roll(np.eye(8, dtype=np.float32), 1, axis=0)
    net.node("MatMul", ["moved", net.constant("b", difference)], "y")
    graph = net.graph([("x", TensorProto.FLOAT, ["batch", 8])], [("y", TensorProto.FLOAT, ["batch", 8])])
    place, path, _ = saved_case(tmp_path, graph, Step("cast", {"what": "compute", "dtype": "bfloat16"}))
    layers = ["MatMul_h", "MatMul_y"]
    aim = {
        "forms": {"bfloat16": path},
        "names": {"bfloat16": layers},
        "now": ["bfloat16"],
        "saves": {"bfloat16": dict.fromkeys(layers, 1.0)},
        "fraction": 0.1,
        "time_limit_s": 5.0,
    }
    found = choose_in_child(**place, aim=aim)
    assert found is not None
    assert found["forms"] == {"MatMul_y": "left", "MatMul_h": "bfloat16"}
    assert 0 < found["error_after"] <= 0.1 * found["error_before"]
    # What costs time in that form is not given it.
    assert choose_in_child(**place, aim={**aim, "saves": {"bfloat16": dict.fromkeys(layers, -1.0)}}) is None


def test_a_model_that_takes_one_number_of_samples(tmp_path):
    fixed = fix_shapes(outliers(), {"x": (5, 8)})
    case = saved_case(tmp_path, fixed, Step("quantize_static", {"layout": "openvino"}))
    found = choose(case)
    assert found is not None
    assert found["forms"] == {FRAGILE: "left", STURDY: "int8"}
    place, changed, sites = case
    ruined, _ = damages_in_child(**place, changed=[changed, place["graph"]])
    assert ruined is not None
    assert {e["name"] for e in errors_in_child(**place, changed=changed, sites=sites)} == {STURDY, FRAGILE}
    assert cost_in_child(place["graph"], place["store"])["layers"]

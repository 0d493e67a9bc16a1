"""In blocks of how many channels widths are chosen: what a table of latencies says, and a measured one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto
from small_graphs import Net, feeds_of

from hasten import data as data_room
from hasten.core.budget import Budget
from hasten.core.data import Roles, split
from hasten.core.layers import Kernel, LayerCost
from hasten.core.recipe import Recipe, Step
from hasten.graph import Graph
from hasten.measuring import Conditions, Subject
from hasten.search.aligned import BLOCKS, Alignment, liked, rates, uneven
from hasten.search.build import Workshop
from hasten.search.candidate import CLEAN, Candidate
from hasten.search.layers import Seen
from hasten.search.trial import Lab


@given(st.integers(1, 3000), st.sampled_from(BLOCKS))
def test_an_uneven_width_is_full_blocks_but_not_full_blocks_of_twice_as_many(count: int, block: int) -> None:
    found = uneven({"a": count}, block)
    assert set(found) == ({"a"} if count >= 4 * block else set())
    for kept in found.values():
        assert kept % block == 0
        assert kept % (2 * block) != 0
        assert 0.75 * count - 2 * block < kept <= 0.75 * count


def seen(us: dict[str, float], macs: dict[str, int]) -> Seen:
    layers = [
        LayerCost(
            name=name,
            op_type="Conv",
            macs=count,
            moved=1,
            parameters=0,
            weight_bytes=0,
            dtype="float32",
            output_shape="1",
        )
        for name, count in macs.items()
    ]
    kernels = [
        Kernel(name=name, op_type="Conv", kind="k", precision="float32", layers=(name,), time_us=time)
        for name, time in us.items()
    ]
    return layers, kernels


WHOLE = seen({"a": 8.0, "b": 4.0, "head": 100.0}, {"a": 800, "b": 400, "head": 10})


def test_only_layers_that_every_version_has_narrower_tell() -> None:
    versions = {
        8: seen({"a": 6.0, "b": 3.0, "head": 7.0}, {"a": 400, "b": 200, "head": 10}),
        16: seen({"a": 4.0, "b": 9.0, "head": 9.0}, {"a": 400, "b": 400, "head": 10}),
    }
    assert rates(WHOLE, versions) == {8: 1.5, 16: 1.0}


def test_blocks_that_no_layer_tells_of_are_left_out() -> None:
    versions = {
        8: seen({"a": 6.0, "b": 3.0}, {"a": 400, "b": 200}),
        16: seen({"a": 4.0, "b": 1.5}, {"a": 400, "b": 100}),
        32: seen({"head": 9.0}, {"a": 800, "b": 400, "head": 10}),
    }
    assert rates(WHOLE, versions) == {8: 1.5, 16: 1.1}
    assert rates(WHOLE, {8: versions[8], 32: versions[32]}) == {}


@pytest.mark.parametrize(
    ("table", "block"),
    [
        ({8: 1.26, 16: 1.0, 32: 0.99}, 16),
        ({8: 1.07, 16: 1.0, 32: 1.01}, 8),
        ({8: 1.3, 16: 1.2, 32: 1.0}, 32),
        ({16: 1.0, 32: 1.2}, 16),
        ({8: 1.0}, None),
        ({}, None),
    ],
)
def test_the_smallest_block_that_no_other_is_clearly_faster_than(
    table: dict[int, float], block: int | None
) -> None:
    assert liked(table) == block


def plain_net(*widths: int) -> Graph:
    net, x, before = Net(0), "image", 8
    for number, width in enumerate((*widths, 4)):
        weight = net.weight(f"w{number}", width, before, 3, 3)
        x = net.node("Relu", [net.node("Conv", [x, weight], f"c{number}", pads=[1] * 4)], f"r{number}")
        before = width
    return net.graph(
        [("image", TensorProto.FLOAT, ["batch", 8, 12, 12])], [(x, TensorProto.FLOAT, ["batch", 4, 12, 12])]
    )


@pytest.fixture
def workshop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workshop]:
    """With the data in ``store``; its graph has convolutions of these widths."""
    graph = plain_net(*request.param)
    graph.write(tmp_path / "model.onnx")
    store, _ = data_room.ingest(feeds_of(graph, batch=40), graph.inputs, tmp_path / "store", seed=0)
    split(store, 0).save()
    place = tmp_path / "model.onnx", tmp_path / "store", tmp_path / "work"
    opened = Workshop(*place, {"seed": 0, "threads": 1, "batch": 1})
    yield opened
    opened.close()


class Watched(Lab):
    """Remembers of how many versions kernels were read, each time."""

    def kernels(self, *subjects: Subject) -> list[tuple[Kernel, ...]]:
        self.usual_ms.append(len(subjects))
        return super().kernels(*subjects)


def lab_of(workshop: Workshop, folder: Path) -> Lab:
    unused: Any = None
    return Watched(
        workshop=workshop,
        selection=Roles.open(folder / "store").selection,
        metric=unused,
        conditions=Conditions(threads=1),
        budget=Budget(),
        work=folder,
        runtimes={},
        original=Candidate(Recipe(), "onnxruntime"),
        baseline=unused,
        baseline_predictions=unused,
    )


PLACE: Any = SimpleNamespace(target="onnxruntime", options={"threads": 1})


@pytest.mark.parametrize("workshop", [(96, 128)], indirect=True)
def test_it_is_measured_where_the_model_runs_and_once(workshop: Workshop, tmp_path: Path) -> None:
    lab, alignment = lab_of(workshop, tmp_path), Alignment()
    first = alignment.of(lab, PLACE, (Step("quantize_static"),), 1e5)
    assert first in BLOCKS
    (told,) = alignment.measured
    assert (told.chosen, set(told.rates)) == (first, set(BLOCKS))
    assert "quantize_static on onnxruntime" in told.version
    assert alignment.of(lab, PLACE, (Step("quantize_static"),), 1e5) == first
    assert lab.usual_ms == [4]
    assert len(alignment.measured) == 1


@pytest.mark.parametrize("workshop", [(12, 16)], indirect=True)
def test_narrow_nets_tell_nothing(workshop: Workshop, tmp_path: Path) -> None:
    alignment = Alignment()
    assert alignment.of(lab_of(workshop, tmp_path), PLACE, (), 1e5) is None
    assert alignment.measured == ()


@pytest.mark.parametrize("workshop", [(96, 128)], indirect=True)
def test_without_time_nothing_is_made(workshop: Workshop, tmp_path: Path) -> None:
    assert Alignment().of(lab_of(workshop, tmp_path), PLACE, (), 0.0) is None
    assert set(workshop._built) == {Recipe().fingerprint, Recipe((CLEAN,)).fingerprint}

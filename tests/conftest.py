"""Fixtures that tests of every room share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from small_graphs import GRAPHS, calibration_for

from hasten.core.data import Calibration
from hasten.graph import Graph

# Several workers share the machine: PyTorch on all cores in each of them would wait for the others.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more about what else runs on the machine than about the code.
settings.register_profile("hasten", deadline=None)
settings.load_profile("hasten")


@pytest.fixture(params=GRAPHS.values(), ids=GRAPHS)
def any_graph(request: pytest.FixtureRequest) -> Graph:
    """Each of the small graphs in turn."""
    return request.param()


@pytest.fixture
def make_calibration(tmp_path: Path) -> Callable[[Graph], Calibration]:
    """Makes the calibration role of a graph."""
    return lambda graph: calibration_for(graph, tmp_path / "store")

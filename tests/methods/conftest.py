"""Fixtures that tests of methods share."""

from __future__ import annotations

import pytest
from small_graphs import calibration_for

from hasten import methods
from hasten.core.recipe import Recipe, Step


@pytest.fixture
def quantize(tmp_path):
    """Applies quantize_static with these parameters, calibrated on random samples."""

    def apply(graph, data=None, **params):
        context = methods.Context(
            calibration=data or calibration_for(graph, tmp_path / f"store-{id(graph)}"), work=tmp_path
        )
        return methods.apply(Recipe([Step("quantize_static", params)]), graph, context)

    return apply

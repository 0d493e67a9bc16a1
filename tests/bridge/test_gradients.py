"""Every operator passes back the gradient that finite differences see, or is listed with a reason."""

from __future__ import annotations

import pytest

import hasten.bridge.program  # noqa: F401 - compiling fills the table
from hasten.bridge.operator import TABLE

from .gradients import FIXED_INPUTS, NOT_DIFFERENTIABLE, WRITTEN, check, small_tests

OPERATORS = sorted(f"{domain}.{name}" if domain else name for domain, name in TABLE)
CHECKED = [name for name in OPERATORS if name not in NOT_DIFFERENTIABLE]


@pytest.mark.parametrize("name", CHECKED)
def test_gradient(name):
    tests = small_tests(name)
    assert tests, f"no node test of {name} has a small float input: write a model for it in gradients.WRITTEN"
    for test in tests:
        check(name, test)


def test_lists_name_operators_of_the_table():
    for names in (NOT_DIFFERENTIABLE, FIXED_INPUTS, WRITTEN):
        assert set(names) <= set(OPERATORS)


def test_nothing_is_both_checked_and_excused():
    assert not set(WRITTEN) & set(NOT_DIFFERENTIABLE)
    assert len(CHECKED) >= 100

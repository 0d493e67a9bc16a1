"""The bridge against the node tests of the onnx package."""

from __future__ import annotations

import pytest

from .node_tests import all_node_tests, run

IN_SCOPE = [name for name, test in all_node_tests().items() if test.out_of_scope is None]


@pytest.mark.parametrize("name", IN_SCOPE)
def test_node(name):
    run(all_node_tests()[name])


def test_enough_is_in_scope():
    plain = [name for name in IN_SCOPE if "_expanded" not in name]
    assert len(plain) >= 1150
    assert len(IN_SCOPE) >= 1500

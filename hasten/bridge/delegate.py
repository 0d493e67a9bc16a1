"""Operators defined by others: the function of one operator, compiled for the node of another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hasten.bridge.operator import Call, Function, find


def delegate(call: Call, op_type: str, version: int, inputs: Sequence[int]) -> Function:
    """The function of a standard operator with this node's attributes, for the inputs at the given places.

    It is compiled for values that are not known, and returns its first output alone. Raises ModelError when
    the bridge lacks the operator.
    """
    row = find("", op_type, version)
    if row is None:
        raise call.wrong(f"needs the operator {op_type}, which the bridge lacks")
    other = replace(
        call,
        op_type=op_type,
        version=version,
        domain="",
        present=tuple(call.has(i) for i in inputs),
        constants=(None,) * len(inputs),
        dtypes=(None,) * len(inputs),
        output_dtypes=(None,),
        wanted=(True,),
    )
    return row.factory(other)

"""A ``hasten.json`` of unknown origin: refused with the name of the key, or shown without a fault."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report import records

from hasten import report
from hasten.core.errors import RecordError
from hasten.core.record import RunRecord

from .damage import damaged, places
from .outcome import Hunt, fault_of

VARIANTS = [name for name in records.VARIANTS if name != "many"]
DAMAGED = 70
CHANGED = 80

_STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1 << 70, 0.0, -0.5, 1e-300, 1e300, "", "x", "\x1b[2J\n", "</script><img src=x>",
    "é\u202e", "n" * 3000, [], {}, [[]], {"a": 1}, [1.0, 2.0], [2.0, 1.0], [0.0, 0.0], "NaN", "met", "better",
    "kept", "faster",
)  # fmt: skip


@cache
def text_of(variant: str) -> str:
    return records.VARIANTS[variant]().to_json()


def spots(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [path] if path else []
    for key, held in inner:
        found += spots(held, (*path, key))
    return found


def changed(rng: Random, text: str) -> str:
    """A record in which one to three values are others, absent, doubled, or moved here from elsewhere."""
    made = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 3))):
        path = rng.choice(spots(made))
        holder = made
        for key in path[:-1]:
            holder = holder[key]
        kind = rng.randrange(5)
        if kind == 0 and isinstance(holder, dict):
            del holder[path[-1]]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("extra", "", "id", "median"))] = holder[path[-1]]
        elif kind == 2 and isinstance(holder, list):
            holder.append(holder[path[-1]])
        elif kind == 3 and isinstance(holder[path[-1]], float | int):
            holder[path[-1]] = rng.choice((0, -1, 1e-12, 1e12, holder[path[-1]] * -1))
        else:
            holder[path[-1]] = rng.choice(_STRANGE)
    return json.dumps(made)


def show(text: str | bytes) -> None:
    """Read a record, and make of it what ``hasten report`` does."""
    record = RunRecord.parse(text)
    lines = report.summary(record, Path("somewhere"))
    page = report.render(record)
    assert lines[0]
    assert all(c.isprintable() for line in lines for c in line)
    assert page.startswith("<!DOCTYPE html>")
    assert "<img src=x" not in page
    assert "\x1b" not in page
    assert page.count("<script") == 1
    assert RunRecord.parse(record.to_json()) == record


@pytest.mark.parametrize("variant", VARIANTS)
def test_damaged_records(variant: str, tmp_path: Path) -> None:
    made = Hunt(tmp_path, ".json")
    original = text_of(variant).encode()
    for i in range(DAMAGED):
        content = damaged(Random(f"{variant}-{i}"), original, places(original, []), original)
        made.run(f"{variant}-damaged-{i}", content, lambda content=content: show(content))
    made.finish()
    assert made.refused > DAMAGED / 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_changed_records(variant: str, tmp_path: Path) -> None:
    made = Hunt(tmp_path, ".json")
    for i in range(CHANGED):
        text = changed(Random(f"{variant}-{i}"), text_of(variant))
        made.run(f"{variant}-changed-{i}", text.encode(), lambda text=text: show(text))
    made.finish()
    assert made.refused > CHANGED / 4
    assert made.accepted > CHANGED / 20


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def refusal(text: str | bytes) -> str | None:
    try:
        RunRecord.parse(text, "hasten.json")
    except RecordError as error:
        return str(error)
    return None


@settings(max_examples=300, deadline=None)
@given(value=_JSON)
def test_any_json_is_refused_in_one_line(value: object) -> None:
    message = refusal(json.dumps(value))
    assert message is not None
    assert fault_of(message) is None


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_refused_in_one_line(content: bytes | str) -> None:
    message = refusal(content)
    assert message is not None
    assert fault_of(message) is None


@settings(max_examples=100, deadline=None)
@given(data=st.data(), variant=st.sampled_from(VARIANTS))
def test_any_value_anywhere_is_read_or_refused_in_one_line(data: st.DataObject, variant: str) -> None:
    made = json.loads(text_of(variant))
    path = data.draw(st.sampled_from(spots(made)))
    holder = made
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = data.draw(_JSON)
    message = refusal(json.dumps(made))
    assert message is None or fault_of(message) is None


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, '{"schema_version": 1' + "0" * 10_000 + "}"]
)
def test_records_without_end(text: str) -> None:
    message = refusal(text)
    assert message is not None
    assert fault_of(message) is None

"""Recipes that nobody should write: parsed and validated, or refused with the path of the key."""

from __future__ import annotations

from pathlib import Path
from random import Random

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hasten import methods
from hasten.core.errors import RecipeError
from hasten.core.recipe import Recipe

from .damage import damaged, places
from .outcome import Hunt, fault_of

GOOD = b"""\
# a comment
steps:
  - optimize_graph: {}
  - quantize_static: {weights: int8, activations: uint8, range: minmax, exclude: [a/b, "c d"]}
  - cast: {dtype: float16, what: weights}
  - quantize_dynamic
"""
DAMAGED = 800

_HOSTILE = {
    "tag": "steps: !!python/object/apply:os.system ['true']",
    "laughs": "a: &a [x, x, x, x, x, x, x, x]\n"
    + "\n".join(
        f"{b}: &{b} [{', '.join(['*' + a] * 8)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "\nsteps: *i",
    "loop": "steps: &s [*s]",
    "loop in parameters": "steps:\n  - cast: &p {exclude: *p}",
    "deep": "steps: " + "[" * 5000,
    "deep mapping": "steps:\n  - cast: " + "{a: " * 2000,
    "two documents": "steps: []\n---\nsteps: []",
    "date": "steps:\n  - cast: {dtype: 2001-01-01}",
    "binary": "steps:\n  - cast: {exclude: [!!binary aGFzdGVu]}",
    "set": "steps: !!set {a, b}",
    "no number": "steps:\n  - quantize_static: {percentile: .nan}",
    "huge number": "steps:\n  - quantize_static: {percentile: " + "9" * 5000 + "}",
    "keys": "steps:\n  - {1: {}}",
    "two keys": "steps:\n  - {cast: {}, optimize_graph: {}}",
    "merge": "steps:\n  - cast: {<<: {dtype: float16}}",
    "key that is a list": "steps:\n  - cast: {? [a, b] : 1}",
    "null": "null",
    "scalar": "steps",
    "control": 'steps:\n  - cast: {dtype: "\\e[31m\\0"}',
}


def read(path: Path) -> Recipe:
    """Read and validate; what is accepted must come back from what it is written as."""
    recipe = Recipe.read(path)
    methods.validate(recipe)
    assert len(recipe.fingerprint) == 12
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml())) == recipe
    return recipe


def test_damaged_recipes(tmp_path: Path) -> None:
    made = Hunt(tmp_path / "got-past", ".yaml")
    path = tmp_path / "recipe.yaml"
    for i in range(DAMAGED):
        content = damaged(Random(f"recipe-{i}"), GOOD, places(GOOD, []), GOOD)
        path.write_bytes(content)
        made.run(f"recipe-{i}", content, lambda: read(path))
    made.finish()
    assert made.accepted > 10
    assert made.refused > DAMAGED / 2


def test_hostile_recipes(tmp_path: Path) -> None:
    made = Hunt(tmp_path / "got-past", ".yaml")
    path = tmp_path / "recipe.yaml"
    for name, text in _HOSTILE.items():
        path.write_text(text, encoding="utf-8")
        made.run(name, text.encode(), lambda: read(path))
    made.finish()
    assert made.accepted <= 1  # the merge key is YAML's own, and what it makes is a valid recipe


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_METHODS = st.sampled_from([*methods.TABLE, "unknown"]) | st.text(max_size=8)
_KEYS = st.sampled_from(["dtype", "what", "exclude", "weights", "range", "percentile"]) | st.text(max_size=8)


@settings(max_examples=400, deadline=None)
@given(
    steps=st.lists(
        st.dictionaries(_METHODS, st.dictionaries(_KEYS, _VALUES, max_size=3), max_size=2), max_size=3
    )
)
def test_any_structure_is_validated_or_refused(steps: list[object]) -> None:
    message = None
    try:
        recipe = Recipe.parse({"steps": steps})
        methods.validate(recipe)
    except RecipeError as error:
        message = str(error)
    assert message is None or fault_of(message) is None


@settings(max_examples=200, deadline=None)
@given(raw=_VALUES)
def test_anything_at_all_is_a_recipe_or_refused(raw: object) -> None:
    message = None
    try:
        assert isinstance(Recipe.parse(raw), Recipe)
    except RecipeError as error:
        message = str(error)
    assert message is None or fault_of(message) is None

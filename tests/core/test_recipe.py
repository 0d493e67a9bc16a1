"""Recipes go both ways, and a mistake is named by the path of its key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hasten.core.errors import RecipeError
from hasten.core.recipe import Recipe, Step

scalars = st.one_of(st.booleans(), st.integers(-5, 5), st.text("abc", max_size=3))
recipes = st.lists(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.dictionaries(st.text("xyz", min_size=1), scalars),
        min_size=1,
        max_size=1,
    )
).map(Recipe)


@given(recipes)
def test_yaml_both_ways(recipe: Recipe) -> None:
    again = Recipe.parse(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe
    assert again.fingerprint == recipe.fingerprint


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("steps: 3", "steps must be a list"),
        ("stages: []", "unknown key 'stages'"),
        ("steps:\n  - {a: {}, b: {}}", r"steps\[0\]"),
        ("steps:\n  - a: [1]", r"steps\[0\].a"),
        ("- a", "mapping"),
        ("steps: [", "not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=where):
        Recipe.read(path)


def test_a_missing_file_is_an_error_of_the_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        Recipe.read(tmp_path / "absent.yaml")


def test_a_list_that_two_steps_share_is_written_twice():
    shared = ["flip", "crop"]
    recipe = Recipe([Step("finetune", {"augment": shared}), Step("distill", {"augment": shared})])
    assert recipe.to_yaml().count("- flip") == 2
    assert "&" not in recipe.to_yaml()

"""Forms of layers, and the candidate that gives each layer its own."""

from __future__ import annotations

from hasten.core.recipe import Json, Recipe, Step
from hasten.search.candidate import Candidate
from hasten.search.forms import Choice, Forms, forms_of, without

EXACT = Step("optimize_graph", {})
CAST = Step("cast", {"dtype": "bfloat16", "what": "compute"})


def candidate(*steps: Step, **options: Json) -> Candidate:
    return Candidate(Recipe((EXACT, *steps)), "openvino", {"threads": 2, **options})


def forms(*steps: Step, narrow: bool = False, **options: Json) -> Forms:
    found = forms_of(candidate(*steps, **options), narrow=narrow)
    assert found is not None
    return found


def test_a_mixed_step_says_what_differs_from_the_first_form() -> None:
    step = Step("quantize_static", {"weights": "int4", "exclude": ["gone"], "weights_of": {"old": "int8"}})
    found = forms(step)
    assert list(found.steps) == ["int4", "int8"]
    assert found.now == ["int4"]
    assert found.steps["int8"].params["weights"] == "int8"
    made = found.mixed(Choice({"bad": "left", "poor": "int8", "fine": "int4"}, 1.0, 0.1))
    assert made.recipe.steps[0] == EXACT
    assert made.recipe.steps[1].params == {
        "weights": "int4",
        "exclude": ["bad", "gone"],
        "weights_of": {"old": "int8", "poor": "int8"},
    }


def test_a_step_of_one_form_only_leaves_out() -> None:
    step = Step("quantize_static", {"range": "mse"})
    made = forms(step).mixed(Choice({"a": "left", "b": "changed"}, 1.0, 0.1))
    assert made == candidate(without(step, ["a"]))
    assert without(step, []) == step


def test_codes_of_more_bits_are_a_form_of_stored_weights() -> None:
    step = Step("compress_weights", {"bits": 4, "rounding": "outputs"})
    found = forms(step)
    assert [form.params["bits"] for form in found.steps.values()] == [4, 8]
    made = found.mixed(Choice({"a": "8", "b": "4", "c": "left"}, 1.0, 0.1))
    assert made.recipe.steps[-1].params == {**step.params, "bits_of": {"a": 8}, "exclude": ["c"]}


def test_exact_steps_have_no_forms() -> None:
    assert forms_of(candidate(), narrow=False) is None
    assert forms_of(candidate(), narrow=True) is None
    assert forms_of(candidate(precision="bfloat16"), narrow=False) is None


def test_bfloat16_everywhere_becomes_bfloat16_where_it_does_no_harm() -> None:
    found = forms(narrow=True, precision="bfloat16")
    assert found.now == ["bfloat16"]
    made = found.mixed(Choice({"a": "bfloat16", "b": "left"}, 1.0, 0.1))
    assert made == candidate(without(CAST, ["b"]))


def test_integers_bfloat16_and_floats_side_by_side() -> None:
    step = Step("quantize_static", {"range": "mse"})
    found = forms(step, narrow=True)
    assert found.now == ["changed"]
    choice = Choice({"a": "changed", "b": "bfloat16", "c": "left"}, 1.0, 0.1)
    assert found.mixed(choice) == candidate(without(step, ["b", "c"]), without(CAST, ["c"]))
    only_integers = Choice({"a": "changed", "c": "left"}, 1.0, 0.1)
    assert found.mixed(only_integers) == candidate(without(step, ["c"]))


def test_what_is_mixed_already_is_mixed_again() -> None:
    made = candidate(without(Step("quantize_static", {}), ["b", "c"]), without(CAST, ["c"]))
    found = forms_of(made, narrow=False)
    assert found is not None
    assert found.now == ["changed", "bfloat16"]
    again = found.mixed(Choice({"a": "left", "b": "bfloat16"}, 1.0, 0.1))
    assert again == candidate(
        without(Step("quantize_static", {}), ["a", "b", "c"]), without(CAST, ["a", "c"])
    )

"""Forms of layers, and the one step that gives each layer its own."""

from __future__ import annotations

from hasten.core.recipe import Step
from hasten.search.repair import Choice, forms_of, mixed, without


def test_a_mixed_step_says_what_differs_from_the_first_form() -> None:
    step = Step("quantize_static", {"weights": "int4", "exclude": ["gone"], "weights_of": {"old": "int8"}})
    forms = forms_of(step)
    assert list(forms) == ["int4", "int8"]
    assert forms["int8"].params["weights"] == "int8"
    choice = Choice({"bad": "left", "poor": "int8", "fine": "int4"}, 1.0, 0.1)
    assert mixed(forms, choice).params == {
        "weights": "int4",
        "exclude": ["bad", "gone"],
        "weights_of": {"old": "int8", "poor": "int8"},
    }


def test_a_step_of_one_form_only_leaves_out() -> None:
    step = Step("quantize_static", {"range": "mse"})
    assert mixed(forms_of(step), Choice({"a": "left", "b": "changed"}, 1.0, 0.1)) == without(step, ["a"])
    assert without(step, []) == step

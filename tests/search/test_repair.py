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


def test_codes_of_more_bits_are_a_form_of_stored_weights() -> None:
    step = Step("compress_weights", {"bits": 4, "rounding": "outputs"})
    forms = forms_of(step)
    assert [form.params["bits"] for form in forms.values()] == [4, 8]
    choice = Choice({"a": "8", "b": "4", "c": "left"}, 1.0, 0.1)
    assert mixed(forms, choice).params == {**step.params, "bits_of": {"a": 8}, "exclude": ["c"]}

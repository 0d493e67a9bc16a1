"""Choosing the layers to leave as they were, on real graphs: few culprits, measured damages."""

from __future__ import annotations

from hasten.core.recipe import Step
from hasten.core.record import Kernel
from hasten.search.repair import Choice, forms_of, mixed, saved, times_us, without


def kernel(name: str, time_us: float | None, *layers: str) -> Kernel:
    return Kernel(name=name, op_type="Conv", kind="k", precision="int8", layers=layers, time_us=time_us)


def test_time_saved_is_of_the_kernels_of_each_layer() -> None:
    before = (kernel("a", 10.0, "conv", "relu"), kernel("b", 4.0, "fc"), kernel("c", None, "other"))
    after = (kernel("a", 3.0, "conv"), kernel("q", 1.0, "conv"), kernel("b", 5.0, "fc"))
    assert saved(times_us(before), times_us(after)) == {"conv": 6.0, "fc": -1.0}


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

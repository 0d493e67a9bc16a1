"""What layers cost, from the kernels that a runtime executes."""

from __future__ import annotations

from hasten.core.layers import Kernel
from hasten.search.layers import difference, shared_us, times_us


def kernel(name: str, time_us: float | None, *layers: str) -> Kernel:
    return Kernel(name=name, op_type="Conv", kind="k", precision="int8", layers=layers, time_us=time_us)


def test_time_saved_is_of_the_kernels_of_each_layer() -> None:
    before = (kernel("a", 10.0, "conv", "relu"), kernel("b", 4.0, "fc"), kernel("c", None, "other"))
    after = (kernel("a", 3.0, "conv"), kernel("q", 1.0, "conv"), kernel("b", 5.0, "fc"))
    assert difference(times_us(before), times_us(after)) == {"conv": 6.0, "fc": -1.0}


def test_a_kernel_of_several_layers_counts_once() -> None:
    kernels = (
        kernel("fused", 8.0, "conv", "relu", "other"),
        kernel("norm", 3.0, "cast", "norm", "scale"),
        kernel("again", 2.0, "conv"),
        kernel("silent", None, "fc"),
    )
    macs = {"conv": 300, "other": 100, "norm": 0, "scale": 0, "fc": 9}
    assert shared_us(kernels, macs) == {"conv": 8.0, "other": 2.0, "norm": 3.0}

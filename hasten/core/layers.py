"""What a record says about layers: their cost, their kernels, their errors, and the widths these like."""

from __future__ import annotations

from pydantic import Field

from hasten.core.measurement import Record


class LayerCost(Record):
    """Cost of one layer; ``macs`` are multiply-accumulates, ``dtype`` is what it computes in.

    moved: numbers that it reads and writes, its weights included.
    """

    name: str
    op_type: str
    macs: int
    moved: int = 0
    parameters: int
    weight_bytes: int
    dtype: str
    output_shape: str


class Kernel(Record):
    """One operation as the runtime really executes it, read from its compiled model.

    name, kind: what the runtime calls the operation and its implementation. layers: the nodes of the exported
    graph it stands for. precision: what it computes in (``float32``, ``bfloat16``, ``int8`` …).
    time_us: its time in one inference with the runtime's profiler on, None where that was not measured.
    """

    name: str
    op_type: str
    kind: str
    precision: str
    layers: tuple[str, ...] = ()
    time_us: float | None = None


class LayerError(Record):
    """How far one layer's output in fewer bits is from what it was before, on calibration samples.

    sqnr_alone_db: signal to noise when this layer alone is changed and reads the values it read before.
    sqnr_db: when all layers are, so that the errors of those before it arrive too. In decibels, more is
    better; None: not measured. action: what was done to the layer.
    """

    name: str
    op_type: str
    action: str
    sqnr_alone_db: float | None = None
    sqnr_db: float | None = None


class Blocks(Record):
    """In blocks of how many channels a target's kernels like widths, as measured on versions of the model.

    version: of the model as it runs there, in words.
    rates: by the block, the time of layers whose widths are odd multiples of so many channels, over what it
    would be if it fell as their multiply-accumulates do.
    chosen: the block that widths were then cut by.
    """

    version: str
    rates: dict[int, float] = Field(min_length=2)
    chosen: int

"""The child's side of the check: open a model file in ONNX Runtime, and run it.

What native code does to itself on a hostile file, it does in this process. Nothing is caught here: whatever
is raised reaches the parent as a WorkerError. Imports are few: this process starts for every model read.
"""

from __future__ import annotations

from pathlib import Path

from hasten.core.recipe import Json
from hasten.core.target import usable_cores
from hasten.loaders.agree import read_runs, write_runs
from hasten.loaders.memory import limit_memory


def examine(model: str, feeds: str | None = None, answers: str | None = None) -> dict[str, Json]:
    """Open a model file; with ``feeds`` (written by ``write_runs``) run them and write the ``answers``.

    Returns ``outputs``: name, type (``tensor(float)`` …) and axes of each, as the runtime infers them.
    Raises whatever ONNX Runtime raises.
    """
    import onnxruntime as ort

    limit_memory()
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = usable_cores()
    # Fusions are the targets' business; without them constants are not computed while opening either.
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if feeds is None:
        # Nothing is run, so weights need not be laid out for it, which would take their size once more.
        settings.add_session_config_entry("session.disable_prepacking", "1")
    session = ort.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    outputs: list[Json] = [
        [value.name, value.type, list(value.shape or [])] for value in session.get_outputs()
    ]
    if feeds is not None and answers is not None:
        names = [value.name for value in session.get_outputs()]
        runs = [dict(zip(names, session.run(names, feed), strict=True)) for feed in read_runs(Path(feeds))]
        write_runs(Path(answers), runs)
    return {"outputs": outputs}

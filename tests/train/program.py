"""A training as a program, to be killed: ``python -m tests.train.program CASE``, a case in JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.optimizer import AcceleratedOptimizer

from hasten.core.data import Calibration, Store
from hasten.core.errors import HastenError
from hasten.graph import Graph
from hasten.train import Event, Settings, fit
from tests.train.nets import Halves, classifier, embedder


def main(case: dict[str, object]) -> int:
    folder = Path(str(case["folder"]))
    store = Store(Path(str(case["data"])))
    rank = int(os.environ.get("RANK", "0"))
    make = embedder if case.get("model") == "embedder" else classifier
    if "most_bytes" in case:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(case["most_bytes"]),) * 2)  # type: ignore[call-overload]

    def tell(event: Event) -> None:
        time.sleep(float(case.get("slow_s", 0.0)))  # type: ignore[arg-type]
        with (folder / "log").open("a") as log:
            log.write(f"{event.step}\n")

    if case.get("early"):
        # What a program does that looks at accelerate before: without a GPU it is one process, silently.
        PartialState()
    if case.get("apart"):
        # A wrapper that does not average: what a launcher's fall-back amounts to.
        Accelerator.prepare = lambda self, model, optimizer: (model, AcceleratedOptimizer(optimizer))  # type: ignore[method-assign]
    model: Graph | torch.nn.Module = make()
    if case.get("dropout"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(12, 24), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(24, 5)
        )
    if case.get("normalization"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(12, 24), torch.nn.BatchNorm1d(24), torch.nn.Linear(24, 5))
    try:
        fitted = fit(
            model,
            Calibration(store, range(len(store))),
            settings=Settings(**case["settings"]),  # type: ignore[arg-type]
            teacher=make(5) if case.get("teacher") else None,
            subnetworks=Halves() if case.get("subnetworks") else None,
            folder=folder / "checkpoints",
            resume=bool(case.get("resume", True)),
            listener=tell,
        )
    except HastenError as error:
        (folder / f"error{rank}").write_text(f"{type(error).__name__}: {error}")
        return 2
    total = float(sum(np.float64(w.detach().double().sum()) for w in fitted.module.state_dict().values()))
    content = {**fitted.history.to_json(), "weights": total, "why": fitted.why, "notes": fitted.notes}
    (folder / f"result{rank or ''}.json").write_text(json.dumps(content))
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))

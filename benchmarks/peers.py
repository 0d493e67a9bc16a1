"""hasten beside its peers' defaults, on the same data and in the same rounds.

    python -m benchmarks.peers --models OUT_DIR --weights DATA_DIR/models --out RESULTS_DIR

``OUT_DIR`` is what ``benchmarks/models.py`` wrote. For each model: ``hasten optimize`` with a 1 % budget; the
original in ONNX Runtime, OpenVINO and, where there is a module, eager PyTorch; ONNX Runtime's
``quantize_static`` and ``quantize_dynamic`` and NNCF's ``quantize``, each with its defaults, on the same
calibration samples; then all of them in interleaved rounds, judged on the same holdout. Shapes are fixed
alike for everyone. ``--more`` adds what else the peers have to choose from: ONNX Runtime's calibration by
percentile and by entropy, NNCF's mixed preset and its accuracy control; and hasten's ``quantize_static`` of
the whole model, as the search tries it first. Writes ``<name>.json``, ``<name>.record.json`` (hasten's own
record) and ``table.md``; ``--only NAME`` does one model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import hasten
from benchmarks.contenders import (
    CASES,
    Case,
    Peers,
    accuracy_controlled,
    in_int8,
    originals,
    source_of,
    whole_in_int8,
)
from benchmarks.peers_table import table
from hasten import data as data_room
from hasten import measuring
from hasten.core.data import split
from hasten.core.record import RunRecord, Scorecard
from hasten.core.target import usable_cores
from hasten.measuring import Conditions, Subject


def main() -> None:
    """Run the cases and write their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=[case.name for case in CASES])
    parser.add_argument("--more", action="store_true", help="the peers' other ways of calibrating, too")
    parser.add_argument("--time-budget", type=float, default=300.0, help="seconds for each search")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        if not arguments.only or case.name in arguments.only:
            run(case, arguments)
    (arguments.out / "table.md").write_text(table(arguments.out), encoding="utf-8")


def run(case: Case, arguments: argparse.Namespace) -> None:
    """One case: search, build the peers, measure all side by side, write the results."""
    print(f"== {case.name}", flush=True)
    out: Path = arguments.out
    # Before the search, so that weights which are not where they were said to be cost no time.
    module = case.module(arguments.weights) if case.module else None
    model, samples = source_of(case, arguments.models)
    with tempfile.TemporaryDirectory(prefix="hasten-peers-") as name:
        work = Path(name)
        began = time.monotonic()
        result = hasten.optimize(
            model,
            samples,
            metric=case.metric,
            budget=hasten.Budget(max_drop=0.01, time_s=arguments.time_budget),
            shapes=case.shapes,
            folder=work / "run",
            listener=lambda event: print(
                f"  {event.what}" if event.trial else "", end="\n" if event.trial else ""
            ),
        )
        search_s = time.monotonic() - began
        print(result, flush=True)
        graph = hasten.read(model, shapes=case.shapes)
        fixed = work / "fixed.onnx"
        graph.write(fixed)
        store, _ = data_room.ingest(samples, graph.inputs, work / "store", seed=0)
        roles = split(store, 0)
        roles.save()
        made = Peers(work)
        originals(made, fixed, roles, module)
        in_int8(made, case, fixed, roles, more=arguments.more)
        if arguments.more:
            whole_in_int8(made, fixed, roles)
            accuracy_controlled(made, case, fixed, roles, arguments.time_budget)
        subjects = made.subjects
        subjects.append(_saved(result.record, result.folder))
        cards = measuring.compare(
            subjects,
            roles.holdout,
            case.metric,
            Conditions(time_limit_s=15.0, rounds_max=100),
            work / "compare",
        )
        rows = [
            {"name": s.name, **(c.model_dump(mode="json") if isinstance(c, Scorecard) else {"error": str(c)})}
            for s, c in zip(subjects, cards, strict=True)
        ]
        for row in rows:
            row["build_seconds"] = made.seconds.get(
                str(row["name"]), search_s if row["name"] == "hasten" else None
            )
        rows += [{"name": name, "error": error} for name, error in made.failures]
    record = result.record
    found = {
        "model": case.name,
        "search_seconds": round(search_s, 1),
        "verdict": record.headline,
        "machine": record.machine.model_dump(mode="json"),
        "threads": usable_cores(),
        "shapes": {k: list(v) for k, v in case.shapes.items()},
        "rows": rows,
    }
    (out / f"{case.name}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    (out / f"{case.name}.record.json").write_text(record.to_json(), encoding="utf-8")
    print(table(out), flush=True)


def _saved(record: RunRecord, folder: Path) -> Subject:
    trial = record.trial(record.best.trial) if record.best else record.baseline
    assert trial.artifact is not None
    return Subject(trial.artifact, folder, "hasten")


if __name__ == "__main__":
    main()

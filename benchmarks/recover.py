"""What training through the bridge recovers: ResNet-20 on CIFAR-10, quantized, and half as wide.

    python -m benchmarks.recover --data DATA_DIR --out RESULTS_DIR [--epochs 10] [--seeds 0 1 2] [--jobs 4]

``DATA_DIR`` holds ``data/cifar10`` and ``models``. For weights of 8 and of 4 bits (activations of 8):
``quantize_static`` alone, then with ``quantize_aware`` on the training pictures without their labels, then
with them; for 8 bits also with a higher learning rate (``steep``) and with scales that stay as
they are (``fixed``). And a ResNet-20 of half the width, trained from scratch on the labels, and with the
whole one as its teacher. Every figure is the accuracy of the last weights on all 10,000 test pictures;
quantized graphs run in ONNX Runtime. Jobs run side by side as processes; each writes ``<job>.json``, and
``table.md`` has all.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import hasten
from benchmarks.model_data import Arrays, cifar10
from hasten import methods
from hasten.core.data import Roles
from hasten.core.recipe import Recipe
from hasten.core.target import usable_cores
from hasten.data import ingest
from hasten.graph import Graph
from hasten.methods import Context

_BATCH = 128
_CALIBRATION = 200
_RATE = {"int8": 5e-5, "int4": 1e-3}
_VARIANTS: dict[str, dict[str, Any]] = {"steep": {"learning_rate": 3e-4}, "fixed": {"learn_scales": False}}


def main() -> None:
    """Run one job, or all of them side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=10.0, help="of quantize_aware")
    parser.add_argument("--student-epochs", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pictures", type=int, default=None, help="of the training set; all by default")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="*", help="pattern of the jobs to run, as results call them")
    parser.add_argument("--job", help="run this one job here")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.job:
        found = {"job": arguments.job, **run(arguments.job, arguments)}
        (arguments.out / f"{arguments.job}.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(json.dumps({k: v for k, v in found.items() if k != "losses"}), flush=True)
        return
    with ThreadPoolExecutor(arguments.jobs) as pool:
        chosen = [job for job in jobs(arguments.seeds) if fnmatch.fnmatch(job, arguments.only)]
        failed = [job for job, code in pool.map(_start, chosen) if code]
    (arguments.out / "table.md").write_text(table(arguments.out), encoding="utf-8")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def jobs(seeds: list[int]) -> list[str]:
    """The names of all jobs: what is done, and the seed where there is one."""
    trained = [f"{w}-{how}" for w in ("int8", "int4") for how in ("unlabelled", "labels")]
    trained += ["int8-unlabelled-steep", "int8-labels-steep", "int8-unlabelled-fixed"]
    students = ["student-plain", "student-distilled"]
    return [f"{name}-{seed}" for name in (*students, *trained) for seed in seeds] + ["float", "int8", "int4"]


def _start(job: str) -> tuple[str, int]:
    command = [sys.executable, "-m", "benchmarks.recover", *sys.argv[1:], "--job", job]
    done = subprocess.run(command, check=False)
    return job, done.returncode


def run(job: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One job by its name: accuracy, seconds, settings."""
    train = cifar10(arguments.data, arguments.pictures, "train")
    test = cifar10(arguments.data, None, "test")
    began = time.monotonic()
    if job.startswith("student"):
        found = _student(job, train, test, arguments)
    else:
        found = _quantized(job, train, test, arguments)
    return {**found, "seconds": round(time.monotonic() - began, 1), "pictures": len(train["labels"])}


def _quantized(job: str, train: Arrays, test: Arrays, arguments: argparse.Namespace) -> dict[str, Any]:
    graph = hasten.read(arguments.data / "models" / "resnet20-cifar10.onnx")
    weights, *named = job.split("-")
    how, *variant, seed = named or ["", "0"]
    if weights == "float":
        return {"accuracy": accuracy(graph, test)}
    steps = [
        hasten.Step("optimize_graph"),
        hasten.Step("quantize_static", {"weights": weights, "samples": _CALIBRATION}),
    ]
    settings: dict[str, Any] = {}
    if how:
        settings = {
            "epochs": arguments.epochs,
            "batch_size": _BATCH,
            "learning_rate": _RATE[weights],
            "alpha": 0.5 if how == "labels" else 0.0,
            "augment": ["flip", "crop"],
            "held_back": 0.0,
        }
        for name in variant:
            settings |= _VARIANTS[name]
        steps.append(hasten.Step("quantize_aware", settings))
    made = applied(graph, hasten.Recipe(steps), train, int(seed), _threads(arguments))
    return {"accuracy": accuracy(made, test), "settings": settings}


def applied(
    graph: Graph,
    recipe: Recipe,
    train: Arrays,
    seed: int,
    threads: int,
    original: Graph | None = None,
) -> Graph:
    """As ``hasten.apply``, but on all the pictures: it takes 20,000 at most."""
    with tempfile.TemporaryDirectory(prefix="recover-") as folder:
        work = Path(folder)
        store, _ = ingest(train, graph.inputs, work / "store", limit=len(next(iter(train.values()))))
        samples = Roles.everything(store).calibration
        context = Context(
            calibration=samples, work=work, original=original, seed=seed, threads=threads, batch=1
        )
        return methods.apply(recipe, graph, context).graph


def _threads(arguments: argparse.Namespace) -> int:
    """Of one job, beside the others."""
    return max(1, usable_cores() // int(arguments.jobs))


def _student(job: str, train: Arrays, test: Arrays, arguments: argparse.Namespace) -> dict[str, Any]:
    import torch

    from benchmarks.torch_modules import CifarResNet
    from hasten.train import Settings

    _, how, seed = job.split("-")
    torch.manual_seed(int(seed))
    student = CifarResNet(3, width=8)
    teacher = hasten.read(arguments.data / "models" / "resnet20-cifar10.onnx") if how == "distilled" else None
    settings = Settings(
        epochs=arguments.student_epochs,
        batch_size=_BATCH,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=5e-4,
        augment=("flip", "crop"),
        alpha=0.1 if teacher is not None else 0.0,
        seed=int(seed),
        threads=_threads(arguments),
    )
    fitted = hasten.fit(student, train, teacher=teacher, settings=settings)
    student = student.cpu().eval()
    with torch.no_grad():
        parts = np.array_split(test["image"], 20)
        scores = np.concatenate([student(torch.from_numpy(part)).numpy() for part in parts])
    return {
        "accuracy": float(np.mean(scores.argmax(1) == test["labels"])),
        "parameters": sum(p.numel() for p in student.parameters()),
        "losses": fitted.history.losses[:: max(1, len(fitted.history.losses) // 200)],
        "settings": asdict(settings),
    }


def accuracy(graph: Any, test: Arrays) -> float:
    """Share of the pictures that a graph with scores names right."""
    from hasten.graph.evaluate import Evaluator

    evaluator = Evaluator(graph, threads=2)
    parts = np.array_split(test["image"], 100)
    scores = np.concatenate([next(iter(evaluator.run({"image": part}).values())) for part in parts])
    return float(np.mean(scores.argmax(1) == test["labels"]))


def table(folder: Path) -> str:
    """Mean and spread over the seeds, as Markdown."""
    groups: dict[str, list[float]] = {}
    for path in sorted(folder.glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        seed = found["job"].rpartition("-")[2]
        groups.setdefault(found["job"].removesuffix(f"-{seed}"), []).append(found["accuracy"])
    lines = ["# Accuracy recovered", "", "| version | accuracy, mean of seeds | each seed |", "|---|---|---|"]
    for name, values in groups.items():
        each = ", ".join(f"{100 * v:.2f}" for v in values)
        spread = f" ± {100 * np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
        lines.append(f"| {name} | {100 * np.mean(values):.2f} %{spread} | {each} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

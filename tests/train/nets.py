"""Small nets and data to train, and a program that trains them in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from onnx import TensorProto
from small_graphs import Net

from hasten.core.data import Calibration, StoreWriter
from hasten.graph import Graph

WIDTH, CLASSES = 12, 5
ROOT = Path(__file__).parents[2]


def classifier(seed: int = 0, hidden: int = 24) -> Graph:
    """Two fully connected layers to logits."""
    net = Net(seed)
    first = [net.weight("w1", hidden, WIDTH, fan_in=WIDTH), net.weight("b1", hidden)]
    x = net.node("Gemm", ["x", *first], "h1", transB=1)
    x = net.node("Relu", [x], "r1")
    net.node("Gemm", [x, net.weight("w2", hidden, CLASSES), net.weight("b2", CLASSES)], "logits")
    return net.graph(
        [("x", TensorProto.FLOAT, ["batch", WIDTH])], [("logits", TensorProto.FLOAT, ["batch", CLASSES])]
    )


def embedder(seed: int = 0) -> Graph:
    """Two layers to an embedding."""
    net = Net(seed)
    x = net.node("MatMul", ["x", net.weight("w1", WIDTH, 24)], "m1")
    x = net.node("Tanh", [x], "t1")
    net.node("MatMul", [x, net.weight("w2", 24, 8)], "embedding")
    return net.graph(
        [("x", TensorProto.FLOAT, ["batch", WIDTH])], [("embedding", TensorProto.FLOAT, ["batch", 8])]
    )


class Halves:
    """Parts of a classifier: the first half of its hidden values, and some that are drawn in each step."""

    def __init__(self, drawn: bool = True) -> None:
        self.identity = f"halves, {drawn}"
        self.drawn = drawn

    def masks(self, step: int) -> list[dict[str, np.ndarray]]:
        kept = [np.arange(24) < 12]
        if self.drawn:
            kept.append(np.random.default_rng(step).random(24) < 0.7)
        return [{"w1": k[:, None].astype(np.float32), "b1": k.astype(np.float32)} for k in kept]


def separable(folder: Path, count: int = 96, seed: int = 3, labels: str | None = "classes") -> Calibration:
    """Samples around one centre a class; labels: ``classes``, ``random``, ``numbers`` or none."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    writer = StoreWriter(folder, ["x", *(["labels"] if labels else [])])
    for _ in range(count):
        which = rng.integers(CLASSES)
        x = (centres[which] + 0.4 * rng.normal(size=WIDTH)).astype(np.float32)
        label = np.asarray(which) if labels == "classes" else (x[:CLASSES] * 2).astype(np.float32)
        if labels == "random":
            label = np.asarray(rng.integers(CLASSES))
        writer.append({"x": x, **({"labels": label} if labels else {})})
    return Calibration(writer.close(), range(count))


def run_program(case: dict[str, object], processes: int = 1) -> subprocess.Popen[bytes]:
    """Start ``tests.train.program`` on a case, under torchrun when there are several processes."""
    module = ["-m", "tests.train.program", json.dumps(case)]
    command = [sys.executable, *module]
    if processes > 1 or case.get("torchrun"):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launcher, *module]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a program that must succeed."""
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error.decode()[-4000:]


def kill_after(process: subprocess.Popen[bytes], log: Path, step: int) -> bool:
    """Kill a program and all its children once its log has ``step``; False: it had ended."""
    limit = time.monotonic() + 90
    while process.poll() is None:
        assert time.monotonic() < limit
        if log.exists() and any(int(line) >= step for line in log.read_text().split()):
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.005)
    return False


def result(folder: Path, rank: int = 0) -> dict[str, object]:
    """What the program wrote when it had finished."""
    return json.loads((folder / f"result{rank or ''}.json").read_text())

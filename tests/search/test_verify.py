"""Verifying: a claim fails where what is found is worse, and what cannot be checked is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hasten
from hasten import loaders
from hasten.core.errors import ModelError, RecordError
from hasten.core.measurement import Comparison, Verdict
from hasten.core.record import Artifact, Best, RunRecord, Scorecard
from hasten.measuring import recorded
from hasten.search import verify as room
from hasten.search.verify import Check, verify
from hasten.search.witness import FILE, disagreement, read_witness
from hasten.targets.files import entries
from tests.report import parts, records


def gain(median: float, half: float, verdict: Verdict) -> Comparison:
    return Comparison(median=median, ci95=(median - half, median + half), verdict=verdict)


def card(speed: Comparison, size: int, **more: Any) -> Scorecard:
    return Scorecard(speedup=speed, size_bytes=size, quality=parts.quality(0.001), **more)


def held(made: RunRecord, was: Scorecard, now: Scorecard, original_bytes: int = 12_412_900) -> dict[str, Any]:
    best = Best(trial="t4", holdout=was)
    return {c.claim: c.holds for c in room._claims(made, best, Scorecard(size_bytes=original_bytes), now)}


SMALLER = "it is smaller than the original by the recorded factor"
FASTER = "it is faster than the original by the recorded factor"
NO_SLOWER = "it is no slower than recorded"


def test_a_size_result_is_checked_for_its_size_and_may_be_faster_than_it_was() -> None:
    was = card(gain(1.0, 0.05, "indistinguishable"), 3_201_000)
    found = held(records.smaller(), was, card(gain(2.0, 0.05, "better"), 3_201_000))
    assert (found[SMALLER], found[NO_SLOWER]) == (True, True)
    noisy = card(gain(0.97, 0.02, "worse"), 3_201_000)
    assert held(records.smaller(), was, noisy)[NO_SLOWER]
    assert not held(records.smaller(), was, card(gain(0.6, 0.02, "worse"), 3_201_000))[NO_SLOWER]


def test_a_size_that_is_not_found_refutes_a_size_result() -> None:
    was = card(gain(1.0, 0.05, "indistinguishable"), 3_201_000)
    assert not held(records.smaller(), was, was, original_bytes=6_000_000)[SMALLER]
    assert held(records.smaller(), was, was, original_bytes=12_400_000)[SMALLER]


def test_a_speed_up_is_to_be_found_again() -> None:
    was = card(gain(1.04, 0.02, "better"), 3_201_000)
    assert held(records.record(), was, card(gain(3.0, 0.1, "better"), 3_201_000))[FASTER]
    assert not held(records.record(), was, card(gain(1.0, 0.05, "indistinguishable"), 3_201_000))[FASTER]
    assert SMALLER not in held(records.record(), was, was)


def test_an_interval_that_ends_next_to_1_is_not_written_as_1() -> None:
    was, now = gain(1.08, 0.03, "better"), gain(1.034, 0.03, "better")
    check = room._speed(was, now, "latency")
    assert check.holds
    assert (check.recorded, check.found) == ("1.08 (1.05 to 1.11)", "1.03 (1.004 to 1.06)")


def test_a_metric_of_the_users_own_is_not_checked_by_another() -> None:
    was = card(gain(2.0, 0.1, "better"), 1).model_copy(update={"quality": parts.quality(0.0, metric="mine")})
    assert (
        held(records.record(), was, card(gain(2.0, 0.1, "better"), 1))["it keeps its mine on the holdout"]
        is None
    )


@pytest.mark.parametrize(
    ("asked", "held"),
    [
        (None, ""),
        ("accuracy", "accuracy"),
        ("Top-5:scores", "Top-5:scores"),
        ("agreement:a:b", "agreement:a:b"),
        ("mine:judge", None),
        (len, None),
    ],
)
def test_a_record_holds_how_a_metric_was_asked_for_unless_it_is_the_users_function(
    asked: Any, held: str | None
) -> None:
    assert recorded(asked) == held


def test_what_was_asked_for_is_measured_again(tmp_path: Path) -> None:
    """A metric on one of two outputs that the labels fit both, of a module that says what it takes."""
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Linear(32, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 3))

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = layers(x)
            return scores, -scores

    x = np.random.default_rng(0).normal(size=(120, 32)).astype(np.float32)
    with torch.no_grad():
        labels = layers(torch.from_numpy(x)).argmax(dim=1).numpy()
    result = hasten.optimize(
        Two().eval(),
        {"x": x, "labels": labels},
        metric="accuracy:output_0",
        inputs=["x=1x32"],
        recipe=hasten.Recipe([hasten.Step("quantize_dynamic")]),
        budget=hasten.Budget(time_s=5, max_drop=0.2, objective="size"),
        folder=tmp_path / "run",
    )
    checks = {check.claim: check for check in verify(result.folder, Two().eval(), {"x": x, "labels": labels})}
    assert checks["the original is the recorded model"].holds
    assert checks["it keeps its accuracy on the holdout"].holds


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of files that answer as recorded."""
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / FILE).write_bytes(b"answers")
    monkeypatch.setattr(
        room, "_answers", lambda record, folder: Check(claim="answers", holds=True, recorded="", found="")
    )
    return tmp_path


def write(folder: Path, *, hashed: tuple[str, ...] = ("model.onnx", FILE)) -> RunRecord:
    """The record of a run that kept the original, with these files hashed."""
    made = records.kept()
    artifact = Artifact(target="onnxruntime", entry="model.onnx", files=entries(folder, ["model.onnx"]))
    made = made.model_copy(
        update={
            "baseline": made.baseline.model_copy(update={"artifact": artifact}),
            "files": entries(folder, hashed),
        }
    )
    (folder / "hasten.json").write_text(made.to_json(), encoding="utf-8")
    return made


def test_of_the_original_nothing_is_claimed(folder: Path) -> None:
    write(folder)
    last = verify(folder)[-1]
    assert last.holds is None
    assert "what was saved is the original" in last.found


@pytest.mark.parametrize("hashed", [(), ("model.onnx",), (FILE,)])
def test_a_record_without_the_hash_of_a_file_is_refused(folder: Path, hashed: tuple[str, ...]) -> None:
    write(folder, hashed=hashed)
    with pytest.raises(RecordError, match="no hash of"):
        verify(folder)


def test_a_module_is_traced_with_a_sample_of_the_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = write(folder)
    seen: list[Any] = []

    def read(model: Any, **given: Any) -> None:
        seen.append(given["samples"])
        raise ModelError("enough")

    monkeypatch.setattr(loaders, "read", read)
    data = {"image": np.zeros((4, 3, 8, 8), np.float32)}
    for model in (lambda image: image, "net:build", folder / "model.onnx"):
        with pytest.raises(ModelError, match="enough"):
            room._measured(record, folder, model, data)
    assert [samples and samples[0]["image"].shape for samples in seen] == [(1, 3, 8, 8), (1, 3, 8, 8), None]
    said = record.model_copy(
        update={"budget": record.budget.model_copy(update={"inputs": ("image=1x3x8x8",)})}
    )
    with pytest.raises(ModelError, match="enough"):
        room._measured(said, folder, "net:build", data)
    assert seen[-1] is None


def arrays(path: Path, **made: Any) -> bytes:
    np.savez(path, **made)
    return path.read_bytes()


def test_a_damaged_file_of_answers_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE
    whole = arrays(path, inputs=["x"], outputs=["y"], i0_0=np.ones(3), o0_0=np.ones(3))
    assert len(read_witness(path)[0]) == 1
    np.save(tmp_path / "one.npy", np.ones(3))
    damaged = (
        b"",
        b"PK\x03\x04 and no more",
        whole[: len(whole) // 2],
        whole.replace(b"\x00\x00\xf0\x3f", b"\x00\x00\xf0\xbf"),
        (tmp_path / "one.npy").read_bytes(),
        arrays(path, inputs=["x"], outputs=["y"]),
        arrays(path, i0_0=np.ones(3)),
        arrays(path, inputs=1, outputs=1, i0_0=np.ones(3)),
    )
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(RecordError, match=FILE):
            read_witness(path)


def test_answers_that_are_not_finite_agree_only_with_the_same() -> None:
    wanted = [{"y": np.array([1.0, np.nan, np.inf])}]
    assert disagreement(wanted, wanted) == 0
    for other in ([np.nan, np.nan, np.inf], [1.0, 2.0, np.inf], [1.0, np.nan, -np.inf]):
        assert disagreement(wanted, [{"y": np.array(other)}]) == np.inf
    assert disagreement([{"y": np.ones(2)}], [{"y": np.array([1.0, 3.0])}]) == pytest.approx(2.0)

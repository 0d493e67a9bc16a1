"""Every command, as a person meets it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hasten.core.record import RunRecord
from tests.cli.conftest import DEMO, Hasten, run

COMMANDS = ("optimize", "inspect", "apply", "measure", "verify", "explain", "report", "targets", "methods")


def test_help_names_every_command(hasten: Hasten) -> None:
    done = hasten("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in COMMANDS)


def test_the_light_start_imports_nothing_heavy() -> None:
    code = (
        "import sys, hasten.cli.main\n"
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'openvino', 'torch', 'scipy', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(hasten: Hasten, name: str) -> None:
    done = hasten(name, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_optimize_saves_model_record_and_report(saved: Path) -> None:
    record = RunRecord.read(saved)
    assert (saved / "report.html").stat().st_size > 10_000
    assert {entry.path for entry in record.files} <= {p.name for p in saved.iterdir()}
    assert record.trials
    assert record.baseline.quality is not None
    assert record.baseline.quality.value > 0.85
    chosen = record.trial(record.best.trial) if record.best else record.baseline
    assert chosen.artifact is not None
    assert all((saved / entry.path).is_file() for entry in chosen.artifact.files)


def test_what_was_saved_carries_no_local_path(saved: Path) -> None:
    here = str(saved.parent).encode()
    for path in saved.iterdir():
        assert here not in path.read_bytes(), path.name


def test_the_run_folder_is_gone_after_success(saved: Path) -> None:
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_an_existing_result_is_not_replaced_unasked(hasten: Hasten, saved: Path) -> None:
    done = hasten("optimize", DEMO / "model.onnx", "--data", DEMO / "data.npz", "-o", saved)
    assert done.returncode == 2
    assert "--force" in done.stderr


def test_verify_confirms_and_refutes(hasten: Hasten, saved: Path, tmp_path: Path) -> None:
    done = hasten("verify", saved)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken"
    shutil.copytree(saved, broken)
    chosen = RunRecord.read(broken).files[-1].path
    (broken / chosen).write_bytes((broken / chosen).read_bytes() + b" ")
    done = hasten("verify", broken)
    assert done.returncode == 3
    assert "does not hold" in done.stdout


def test_verify_measures_again_beside_the_original(hasten: Hasten, saved: Path) -> None:
    done = hasten("verify", saved, "--model", DEMO / "model.onnx", "--data", DEMO / "data.npz", "--json")
    checks = {check["claim"]: check for check in json.loads(done.stdout)}
    assert checks["the original is the recorded model"]["holds"]
    assert checks["the data are the recorded data"]["holds"]
    if RunRecord.read(saved).best is not None:
        assert checks["it keeps its accuracy on the holdout"]["holds"]


def test_report_is_written_again_the_same(hasten: Hasten, saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(saved, copy)
    before = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    assert hasten("report", copy).returncode == 0
    assert (copy / "report.html").read_text() == before


def test_the_saved_model_opens_in_python(saved: Path) -> None:
    import hasten

    fast = hasten.load(saved)
    with np.load(DEMO / "data.npz") as data:
        image, labels = data["image"][:200], data["labels"][:200]
    right = sum(int(fast({"image": image[i : i + 1]})["logits"].argmax() == labels[i]) for i in range(200))
    assert right > 170


def test_inspect_shows_layers_and_advice(hasten: Hasten) -> None:
    done = hasten("inspect", DEMO / "model.onnx", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Conv 1→32 and 32→64 of 3², dense 64·5²→64 and 64→10, each with its bias.
    expected = (32 * 9 + 32) + (64 * 32 * 9 + 64) + (1600 * 64 + 64) + (640 + 10)
    assert sum(layer["parameters"] for layer in found["layers"]) == expected
    assert found["operators"]["Conv"] == 2
    assert any(entry["tried"] for entry in found["advice"])
    # Codes of four bits are made for size, and a run for latency does not try them.
    assert not any("compress_weights" in entry["name"] for entry in found["advice"] if entry["tried"])
    assert hasten("inspect", DEMO / "model.onnx").returncode == 0


def test_brackets_and_colons_of_a_name_are_no_markup(hasten: Hasten, tmp_path: Path) -> None:
    shutil.copy(DEMO / "model.onnx", tmp_path / "net[int8]:key:.onnx")
    done = hasten("inspect", "net[int8]:key:.onnx")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("net[int8]:key:.onnx (onnx")


def test_apply_writes_one_recipe(hasten: Hasten, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n  - optimize_graph: {}\n  - quantize_static: {range: minmax}\n")
    done = hasten(
        "apply",
        DEMO / "model.onnx",
        "--recipe",
        recipe,
        "--data",
        DEMO / "data.npz",
        "-o",
        "new/int8.onnx",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["effective"]
    assert (tmp_path / "new" / "int8.onnx").stat().st_size < (DEMO / "model.onnx").stat().st_size / 2


def test_measure_puts_models_side_by_side(hasten: Hasten) -> None:
    model = DEMO / "model.onnx"
    done = hasten("measure", model, model, "--data", DEMO / "data.npz", "--json")
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)
    assert first["quality"]["value"] == second["quality"]["value"]
    assert 0.5 < second["speedup"]["median"] < 2.0
    without_data = hasten("measure", model)
    assert without_data.returncode == 0, without_data.stderr


LOUD = """
import numpy as np

print("importing")


def data():
    print("loading")
    with np.load("data.npz") as held:
        return {"Image": held["image"][:100], "labels": held["labels"][:100]}


def right(outputs, labels):
    print("judging")
    return outputs["logits"].argmax(axis=1) == labels
"""


def test_what_the_users_code_prints_and_what_was_assumed_is_beside_the_answer(
    hasten: Hasten, tmp_path: Path
) -> None:
    (tmp_path / "loud.py").write_text(LOUD)
    (tmp_path / "nothing.yaml").write_text("steps: []\n")
    shutil.copy(DEMO / "data.npz", tmp_path)
    for command in (
        ["measure", DEMO / "model.onnx", "--metric", "loud:right"],
        ["apply", DEMO / "model.onnx", "--recipe", "nothing.yaml", "-o", "same.onnx"],
        ["optimize", DEMO / "model.onnx", "--metric", "loud:right", "--time-budget", "2s", "-o", "fast"],
    ):
        done = hasten(*command, "--data", "loud:data", "--json")
        assert done.returncode in {0, 3}, done.stderr
        assert json.loads(done.stdout)
        assert {"importing", "loading"} <= set(done.stderr.splitlines())
        assert "note: loud:data: 'Image' was taken as the input 'image', the only one" in done.stderr


def test_a_model_that_takes_one_number_of_samples(hasten: Hasten, tmp_path: Path) -> None:
    from hasten import read

    read(DEMO / "model.onnx", shapes={"image": (16, 1, 28, 28)}).write(tmp_path / "sixteen.onnx")
    with np.load(DEMO / "data.npz") as data:
        np.savez(tmp_path / "some.npz", image=data["image"][:333], labels=data["labels"][:333])
    (tmp_path / "recipe.yaml").write_text("steps:\n  - optimize_graph: {}\n  - quantize_static: {}\n")
    arguments = [
        "--data",
        "some.npz",
        "--recipe",
        "recipe.yaml",
        "--objective",
        "size",
        "--time-budget",
        "5s",
    ]
    refused = hasten("optimize", "sixteen.onnx", *arguments, "-o", "small")
    assert refused.returncode == 2
    assert "--batch 16" in refused.stderr
    done = hasten("optimize", "sixteen.onnx", *arguments, "--batch", "16", "-o", "small")
    assert done.returncode == 0, done.stderr
    assert RunRecord.read(tmp_path / "small").budget.batch == 16


def test_targets_and_methods_are_listed(hasten: Hasten) -> None:
    names = {entry["name"] for entry in json.loads(hasten("targets", "--json").stdout)}
    assert {"onnxruntime", "openvino"} <= names
    listed = {entry["name"] for entry in json.loads(hasten("methods", "--json").stdout)}
    assert {"optimize_graph", "quantize_static", "quantize_dynamic", "cast"} <= listed
    assert "Formula" in hasten("methods", "quantize_static").stdout


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``hasten optimize`` saved for one int8 recipe, chosen for its size: speed decides nothing."""
    folder = tmp_path_factory.mktemp("quantized")
    recipe = folder / "recipe.yaml"
    recipe.write_text("steps:\n  - optimize_graph: {}\n  - quantize_static: {exclude: [node_linear_1]}\n")
    arguments = ["optimize", DEMO / "model.onnx", "--data", DEMO / "data.npz", "--recipe", recipe]
    arguments += ["--objective", "size", "--target", request.param, "--time-budget", "10s", "-o", "small"]
    done = run(arguments, folder)
    assert done.returncode == 0, done.stderr
    return folder / "small"


def test_explain_says_what_really_runs(hasten: Hasten, quantized: Path) -> None:
    done = hasten("explain", quantized, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    by_layer = {kernel["layer"]: kernel for kernel in found["kernels"]}
    assert by_layer["node_conv2d"]["precision"] == "int8"
    assert by_layer["node_linear_1"]["precision"] == "float32"
    assert "excluded" in by_layer["node_linear_1"]["why"]
    assert sum(kernel["share"] for kernel in found["kernels"]) == pytest.approx(1.0)
    record = RunRecord.read(quantized)
    assert record.best is not None
    assert record.best.holdout.quality is not None
    flips = record.best.holdout.quality.flips
    assert flips is not None
    assert (len(found["lost"]), len(found["gained"])) == (flips.lost, flips.gained)
    shown = hasten("explain", quantized)
    assert shown.returncode == 0
    assert "What the runtime executes" in shown.stdout
    assert "node_conv2d" in shown.stdout
    assert 'id="explained"' in (quantized / "report.html").read_text()


def test_explain_says_what_rounding_did_to_a_smaller_model(hasten: Hasten, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "steps:\n  - optimize_graph: {}\n  - prune_channels: {macs: 0.9}\n  - compress_weights: {}\n"
    )
    arguments = ["optimize", DEMO / "model.onnx", "--data", DEMO / "data.npz", "--recipe", "recipe.yaml"]
    arguments += ["--target", "onnxruntime", "--objective", "size", "--max-drop", "5pt", "-o", "out"]
    done = hasten(*arguments, "--time-budget", "10s")
    assert done.returncode == 0, done.stderr
    record = RunRecord.read(tmp_path / "out")
    assert record.best is not None
    # The narrower layers have other shapes than the original's, and are compared with themselves.
    assert record.best.errors
    assert all("channels" not in error.action for error in record.best.errors)
    assert not any("could not be measured" in reason for reason in record.reasons)


def test_data_of_their_own_to_learn_from(hasten: Hasten, tmp_path: Path) -> None:
    given = np.load(DEMO / "data.npz")
    compared = {name: given[name][:600] for name in ("image", "labels")}
    np.savez(tmp_path / "test.npz", **compared)
    np.savez(tmp_path / "train.npz", image=given["image"][580:900])
    (tmp_path / "recipe.yaml").write_text("steps:\n  - quantize_static: {}\n")
    arguments = ["optimize", DEMO / "model.onnx", "--data", "test.npz", "--recipe", "recipe.yaml"]
    arguments += ["--max-drop", "5%", "--objective", "size", "--time-budget", "20s", "-o", "out"]
    done = hasten(*arguments, "--train", "train.npz")
    assert done.returncode == 0, done.stderr
    data = RunRecord.read(tmp_path / "out").data
    assert data.train is not None
    assert (data.labelled, data.splits) == (True, {"selection": 300, "holdout": 300})
    assert (data.train.labelled, data.train.splits) == (False, {"calibration": 300})
    assert "20 of its samples are left out: they are among those that are compared on" in data.train.notes
    assert "Data to learn from" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    again = hasten("verify", "out", "--model", DEMO / "model.onnx", "--data", "test.npz")
    assert "the data are the recorded data" in again.stdout
    assert "it keeps its accuracy on the holdout" in again.stdout


def test_explain_of_no_result_says_so(hasten: Hasten, tmp_path: Path) -> None:
    done = hasten("explain", tmp_path)
    assert done.returncode == 2
    assert "hasten optimize" in done.stderr

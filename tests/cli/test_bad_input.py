"""Bad input: exit status 2, one clear message, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import DEMO, Hasten

MODEL, DATA = DEMO / "model.onnx", DEMO / "data.npz"


def check_refused(hasten: Hasten, *arguments: object, says: str) -> None:
    done = hasten(*arguments)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    assert says in done.stderr, done.stderr


def optimize(model: object = MODEL, data: object = DATA, *more: object) -> list[object]:
    return ["optimize", model, "--data", data, "-o", "out", *more]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--max-drop", "lots"], "1%"),
        (["--time-budget", "soon"], "5m"),
        (["--objective", "beauty"], "latency"),
        (["--target", "toaster"], "toaster"),
        (["--metric", "charm"], "charm"),
        (["--shape", "image=axb"], "NAME=1x3x224x224"),
        (["--shape", "picture=1x1x28x28"], "picture"),
        (["--threads", "0"], "threads"),
        (["--threads", "1000"], "cores that can be used here"),
        (["--seed", "-1"], "--seed"),
        (["--max-drop", "1"], "write 1% or 0.01"),
        (["--metric", "charm:level"], "importing 'charm' failed"),
        (["--train", "x" * 300 + ".npz"], "File name too long"),
        (["--recipe", "absent.yaml"], "absent.yaml"),
        (["--resume"], "--resume"),
    ],
)
def test_arguments(hasten: Hasten, tmp_path: Path, more: list[str], says: str) -> None:
    check_refused(hasten, *optimize(MODEL, DATA, *more), says=says)
    assert not (tmp_path / "out").exists()


def test_recipe_with_unknown_key(hasten: Hasten, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n  - quantize_static: {colour: blue}\n")
    check_refused(hasten, *optimize(MODEL, DATA, "--recipe", recipe), says="steps[0].quantize_static.colour")


def test_recipe_with_unknown_method(hasten: Hasten, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps:\n  - polish: {}\n")
    check_refused(hasten, *optimize(MODEL, DATA, "--recipe", recipe), says="polish")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.onnx", None),
        ("empty.onnx", b""),
        ("random.onnx", bytes(range(256)) * 20),
        ("cut.onnx", "half"),
    ],
)
def test_models(hasten: Hasten, tmp_path: Path, name: str, content: bytes | str | None) -> None:
    path = tmp_path / name
    if content == "half":
        whole = MODEL.read_bytes()
        content = whole[: len(whole) // 2]
    if isinstance(content, bytes):
        path.write_bytes(content)
    check_refused(hasten, *optimize(path), says=name)
    assert not (tmp_path / "out").exists()


def arrays(count: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": rng.random((count, 1, 28, 28), dtype=np.float32),
        "labels": rng.integers(0, 10, count),
    }


def nan_at_three() -> dict[str, np.ndarray]:
    made = arrays()
    made["image"][3, 0, 0, 0] = np.nan
    return made


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({**arrays(), "image": arrays()["image"][:, :, :27]}, "image"),
        ({"picture": arrays()["image"], "depth": arrays()["image"]}, "image"),
        ({**arrays(), "image": arrays()["image"].astype(np.complex64)}, "complex numbers"),
        ({**arrays(), "labels": arrays(39)["labels"]}, "39"),
        (arrays(0), "empty"),
        (arrays(2), "at least 3"),
        (nan_at_three(), "3"),
    ],
    ids=["shape", "name", "dtype", "length", "empty", "too few", "nan"],
)
def test_data(hasten: Hasten, tmp_path: Path, made: dict[str, np.ndarray], says: str) -> None:
    np.savez(tmp_path / "data.npz", **made)
    check_refused(hasten, *optimize(MODEL, tmp_path / "data.npz"), says=says)
    assert not (tmp_path / "out").exists()


def test_nothing_but_what_is_compared_on_to_learn_from(hasten: Hasten) -> None:
    check_refused(hasten, *optimize(MODEL, DATA), "--train", DATA, says="compared on too")


def test_data_to_learn_from_that_do_not_fit(hasten: Hasten, tmp_path: Path) -> None:
    made = arrays()
    np.savez(tmp_path / "train.npz", image=made["image"][:, :, :27])
    check_refused(
        hasten, *optimize(MODEL, DATA), "--train", tmp_path / "train.npz", says="train.npz: input image"
    )


def test_truncated_data(hasten: Hasten, tmp_path: Path) -> None:
    whole = DATA.read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    check_refused(hasten, *optimize(MODEL, tmp_path / "cut.npz"), says="cut.npz")


def test_pickled_data_are_not_opened(hasten: Hasten, tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None, "x"], dtype=object)
    np.savez(tmp_path / "objects.npz", image=objects)
    check_refused(hasten, *optimize(MODEL, tmp_path / "objects.npz"), says="objects")


def test_output_under_a_file(hasten: Hasten, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_refused(hasten, "optimize", MODEL, "--data", DATA, "-o", "file/out", says="file")
    check_refused(hasten, "optimize", MODEL, "--data", DATA, "-o", "file", says="is a file")


def test_force_does_not_replace_a_folder_hasten_did_not_make(hasten: Hasten, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    check_refused(hasten, *optimize(MODEL, DATA, "--force"), says="was not made by hasten")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("text", ["", "{}", "[1", '{"schema_version": 99}'])
def test_records(hasten: Hasten, tmp_path: Path, text: str) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "hasten.json").write_text(text)
    for command in ("report", "verify"):
        check_refused(hasten, command, "saved", says="hasten.json")


def test_a_folder_without_a_record(hasten: Hasten) -> None:
    check_refused(hasten, "verify", "nowhere", says="nowhere")


@pytest.mark.parametrize("kept", [0, 3000])
def test_what_is_refused_leaves_no_folder_behind(hasten: Hasten, tmp_path: Path, kept: int) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(MODEL.read_bytes()[:kept])
    bad = tmp_path / "bad.npz"
    np.savez(bad, image=np.zeros((9, 1, 9, 9), np.float32))
    check_refused(hasten, *optimize(model), says="model.onnx")
    check_refused(hasten, *optimize(data=bad), says="bad.npz")
    check_refused(hasten, *optimize("nowhere.onnx"), says="nowhere.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "bad.npz"}


def test_an_output_whose_run_would_have_too_long_a_name(hasten: Hasten) -> None:
    for more in ([], ["--resume"]):
        check_refused(hasten, "optimize", MODEL, "--data", DATA, "-o", "x" * 252, *more, says="name too long")


@pytest.mark.parametrize("command", ["optimize", "measure", "inspect"])
def test_a_name_that_is_too_long(hasten: Hasten, command: str) -> None:
    model = "x" * 300 + ".onnx"
    arguments = optimize(model) if command == "optimize" else [command, model]
    check_refused(hasten, *arguments, says="File name too long")


def test_what_was_refused_after_loading_does_not_stand_in_the_way(hasten: Hasten, tmp_path: Path) -> None:
    check_refused(hasten, *optimize(MODEL, DATA, "--metric", "acuracy"), says="unknown metric")
    assert not list(tmp_path.iterdir())
    done = hasten(*optimize(MODEL, DATA, "--metric", "accuracy", "--time-budget", "2s"))
    assert done.returncode in {0, 3}, done.stderr


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("recipe.yaml/a/y.onnx", "is a file"),
        ("x" * 300 + ".onnx", "File name too long"),
        ("taken", "is a folder"),
    ],
)
def test_apply_looks_at_its_output_first(hasten: Hasten, tmp_path: Path, output: str, says: str) -> None:
    (tmp_path / "recipe.yaml").write_text("steps: []\n")
    (tmp_path / "taken").mkdir()
    # That the model is not there would be said otherwise.
    arguments = ["apply", "absent.onnx", "--recipe", "recipe.yaml", "--force", "-o", output]
    check_refused(hasten, *arguments, says=says)

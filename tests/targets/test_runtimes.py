"""What holds for every runtime hasten exports to."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from hasten import targets
from hasten.core.errors import InputError, TrialError
from hasten.graph.evaluate import Evaluator

from . import models

RUNTIMES = ["onnxruntime", "openvino"]


@pytest.fixture(params=RUNTIMES)
def name(request):
    return request.param


def opened(name, graph, folder, **options):
    target = targets.find(name)
    settings = targets.options(name, {"threads": 1, **options})
    artifact = target.export(graph, folder, settings)
    return artifact, target.open(artifact, folder, settings)


def test_outputs_match_the_graph(name, tmp_path):
    graph = models.classifier()
    image = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    _, runner = opened(name, graph, tmp_path)
    found = runner.run({"image": image})
    wanted = Evaluator(graph, optimized=False).run({"image": image})
    # 27 products a sum, and kernels may order them differently: a few float32 roundings
    np.testing.assert_allclose(found["logits"], wanted["logits"], rtol=1e-4, atol=1e-5)


def test_signature_is_the_models(name, tmp_path):
    _, runner = opened(name, models.several(), tmp_path)
    assert [(s.name, s.dtype) for s in runner.inputs] == [("ids", "int32"), ("scale", "float32")]
    assert [(s.name, s.dtype) for s in runner.outputs] == [("scaled", "float32"), ("best", "int64")]
    assert runner.inputs[0].is_dynamic
    assert len(runner.inputs[0].shape) == 2
    assert runner.inputs[1].shape == ()


def test_several_inputs_and_outputs(name, tmp_path):
    _, runner = opened(name, models.several(), tmp_path)
    found = runner.run({"ids": np.array([[1, 5, 2]], np.int32), "scale": np.float32(2).reshape(())})
    np.testing.assert_array_equal(found["scaled"], [[2, 10, 4]])
    np.testing.assert_array_equal(found["best"], [1])


def test_onnxruntime_turns_another_byte_order(tmp_path):
    _, runner = opened("onnxruntime", models.aliases(), tmp_path)
    x = np.array([[-1, 2, -3, 4]], ">f4")
    np.testing.assert_array_equal(runner.run({"x": x})["x"], x)


def test_outputs_that_share_a_value_keep_their_names(name, tmp_path):
    _, runner = opened(name, models.aliases(), tmp_path)
    x = np.array([[-1, 2, -3, 4]], np.float32)
    found = runner.run({"x": x})
    assert list(found) == ["y", "x", "z"]
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["y"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["z"], np.maximum(x, 0))


@pytest.mark.parametrize(
    ("element", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.BFLOAT16, ml_dtypes.bfloat16)]
)
def test_half_precision_in_and_out(name, element, dtype, tmp_path):
    _, runner = opened(name, models.doubled(element), tmp_path)
    found = runner.run({"x": np.array([[1, 2, 3.5]], dtype)})["y"]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.float32), [[2, 4, 7]])


def test_bfloat16_input_takes_float32_data(name, tmp_path):
    _, runner = opened(name, models.doubled(TensorProto.BFLOAT16), tmp_path)
    found = runner.run({"x": np.array([[1, 2, 3.5]], np.float32)})["y"]
    np.testing.assert_array_equal(found.astype(np.float32), [[2, 4, 7]])


def test_strings_in_onnxruntime(tmp_path):
    _, runner = opened("onnxruntime", models.text(), tmp_path)
    found = runner.run({"x": np.array(["a", "bé"])})["y"]
    assert found.dtype.kind == "U"
    assert found.tolist() == ["a", "bé"]


def test_outputs_belong_to_the_caller(name, tmp_path):
    _, runner = opened(name, models.classifier(), tmp_path)
    first = runner.run({"image": np.zeros((1, 3, 8, 8), np.float32)})["logits"]
    before = first.copy()
    runner.run({"image": np.ones((1, 3, 8, 8), np.float32)})
    np.testing.assert_array_equal(first, before)
    first += 1  # and may be written to


def test_artifact_names_every_file_with_its_hash(name, tmp_path):
    artifact, _ = opened(name, models.classifier(), tmp_path, threads=1)
    assert {f.path for f in artifact.files} == {p.name for p in tmp_path.iterdir()}
    for entry in artifact.files:
        content = (tmp_path / entry.path).read_bytes()
        assert entry.sha256 == hashlib.sha256(content).hexdigest()
        assert entry.bytes == len(content)
    assert artifact.options == {"threads": 1}
    assert artifact.size_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


def test_nothing_of_the_exporting_machine_is_written(name, tmp_path):
    graph = models.classifier()
    graph.ir_model.graph.node(0).metadata_props["trace"] = "/home/someone/secret.py"
    opened(name, graph, tmp_path)
    assert all(b"secret" not in p.read_bytes() for p in tmp_path.iterdir())
    assert all(str(tmp_path).encode() not in p.read_bytes() for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"image": np.zeros((1, 3, 8, 8), np.float64)},
        {"image": np.zeros((1, 3, 8), np.float32)},
        {"image": np.zeros((1, 5, 8, 8), np.float32)},
    ],
    ids=["missing", "dtype", "rank", "size"],
)
def test_wrong_feeds_are_a_trial_error_on_one_line(name, feeds, tmp_path):
    _, runner = opened(name, models.classifier(), tmp_path)
    with pytest.raises(TrialError) as caught:
        runner.run(feeds)
    assert "\n" not in str(caught.value)


def test_a_damaged_file_is_a_trial_error(name, tmp_path):
    target = targets.find(name)
    artifact, _ = opened(name, models.classifier(), tmp_path)
    entry = tmp_path / artifact.entry
    entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    with pytest.raises(TrialError, match="cannot open") as caught:
        target.open(artifact, tmp_path, targets.options(name, {}))
    assert "\n" not in str(caught.value)


def test_an_operator_the_runtime_lacks_is_a_trial_error(name, tmp_path):
    graph = models.classifier()
    graph.ir_model.graph.node(1).op_type = "Reluminous"
    with pytest.raises(TrialError):
        opened(name, graph, tmp_path)


@pytest.mark.parametrize(
    ("option", "value"), [("threads", 0), ("thread", 1), ("threads", "many"), ("precision", "int3")]
)
def test_wrong_options_name_the_option(name, option, value):
    with pytest.raises(InputError, match=rf"option {name}\.{option}"):
        targets.options(name, {option: value})


def test_several_threads_may_call_at_once(name, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    _, runner = opened(name, models.classifier(), tmp_path)
    images = [np.full((1, 3, 8, 8), i, np.float32) for i in range(20)]
    wanted = [runner.run({"image": image})["logits"] for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: runner.run({"image": image})["logits"], images))
    np.testing.assert_array_equal(found, wanted)
    assert runner.callers >= 1


@pytest.mark.parametrize(
    "options",
    [
        {"graph_level": "disabled"},
        {"graph_level": "basic"},
        {"graph_level": "extended"},
        {"execution": "parallel", "threads": 2},
        {"arena": False},
        {"spinning": False},
        {"denormals": False},
    ],
    ids=str,
)
def test_onnxruntime_options_change_no_answer(options, tmp_path):
    graph = models.classifier()
    image = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    artifact, runner = opened("onnxruntime", graph, tmp_path, **options)
    wanted = Evaluator(graph, optimized=False).run({"image": image})["logits"]
    np.testing.assert_allclose(runner.run({"image": image})["logits"], wanted, rtol=1e-4, atol=1e-5)
    assert artifact.options == {"threads": 1, **options}


def test_openvino_computes_in_what_was_asked_or_refuses(tmp_path):
    graph = models.classifier(channels=32)
    image = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)
    _, exact = opened("openvino", graph, tmp_path)
    able = targets.find("openvino").spec().compute_dtypes
    for precision in ("bfloat16", "float16"):
        settings = {"precision": precision}
        if precision not in able:
            with pytest.raises(TrialError, match=f"does not compute in {precision}"):
                opened("openvino", graph, tmp_path, **settings)
            continue
        _, reduced = opened("openvino", graph, tmp_path, **settings)
        wanted, found = exact.run({"image": image})["logits"], reduced.run({"image": image})["logits"]
        assert np.any(found != wanted)
        # bfloat16 keeps 8 bits of each factor; errors of single layers add up
        np.testing.assert_allclose(found, wanted, atol=0.05 * np.abs(wanted).max())


def test_openvino_weights_are_halved_only_when_asked(tmp_path):
    graph = models.classifier(channels=64)
    (tmp_path / "full").mkdir()
    (tmp_path / "half").mkdir()
    full, _ = opened("openvino", graph, tmp_path / "full")
    half, runner = opened("openvino", graph, tmp_path / "half", compress=True)
    sizes = [next(f.bytes for f in a.files if f.path == "model.bin") for a in (full, half)]
    assert sizes[0] >= graph.parameters * 4
    assert sizes[1] <= 0.6 * sizes[0]
    assert runner.inputs[0].dtype == "float32"


def test_openvino_says_when_the_disk_is_full(tmp_path, monkeypatch):
    import openvino

    def full(*_, **__):
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(TrialError, match=r"cannot write the model to .*iostream error; is the disk full\?"):
        opened("openvino", models.classifier(), tmp_path)


def test_openvino_streams_and_throughput(tmp_path):
    _, runner = opened("openvino", models.classifier(), tmp_path, mode="throughput", streams=2, threads=2)
    assert runner.callers >= 2
    assert runner.run({"image": np.zeros((1, 3, 8, 8), np.float32)})["logits"].shape == (1, 3)


def test_an_output_that_is_no_tensor_is_refused(tmp_path):
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["s"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, [1])],
    )
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph, ir_version=9).SerializeToString())
    artifact, folder = targets.artifact_of(tmp_path / "m.onnx")
    with pytest.raises(TrialError, match="not a tensor"):
        targets.find("onnxruntime").open(artifact, folder, targets.options("onnxruntime", {}))

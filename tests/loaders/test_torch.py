"""PyTorch modules and programs come in with their answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hasten.core.errors import InputError, ModelError
from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.loaders import check, read
from hasten.loaders.shapes import fix_shapes
from loaders import modules

RNG = np.random.default_rng(0)


def images(count: int) -> np.ndarray:
    return RNG.normal(size=(count, 3, 12, 12)).astype(np.float32)


def tokens(count: int, length: int) -> dict[str, np.ndarray]:
    mask = np.ones((count, length), np.int64)
    mask[:, length // 2 + 1 :] = 0
    return {"ids": RNG.integers(0, 50, (count, length)), "mask": mask}


def test_a_convolutional_module(tmp_path: Path) -> None:
    net = modules.conv_net()
    loaded = read(net, inputs=["image=1x3x12x12"], work=tmp_path)
    assert (loaded.source, loaded.format, loaded.notes) == ("ConvNet", "torch", ())
    assert [str(s) for s in (*loaded.graph.inputs, *loaded.graph.outputs)] == [
        "image: float32[batchx3x12x12]",
        "output: float32[batchx5]",
    ]
    x = images(7)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(x)).numpy()
    assert Evaluator(loaded.graph).run({"image": x})["output"] == pytest.approx(expected, abs=1e-5)
    assert loaded.eager is not None
    assert check(loaded, [{"image": images(1)}, {"image": x}])["output"] < 1e-5


def test_the_module_is_left_as_it_was() -> None:
    net = modules.conv_net()
    net.train()
    net.drop.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    graph = read(net, inputs=["image=1x3x12x12"]).graph
    assert (net.training, net.norm.training, net.drop.training) == (True, True, False)
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name]), name
    # And the other way round: training goes on, the graph stays.
    fingerprint = graph.fingerprint
    with torch.no_grad():
        net.head.weight.zero_()
    assert graph.fingerprint == fingerprint


def test_nothing_of_this_machine_comes_along(tmp_path: Path) -> None:
    graph = read(modules.conv_net(), inputs=["image=1x3x12x12"]).graph
    content = graph.to_bytes()
    for trace in (b"modules.py", b"File ", str(Path(__file__).parent).encode(), b"stack_trace"):
        assert trace not in content


def test_several_inputs_and_outputs_and_lengths_that_vary(tmp_path: Path) -> None:
    net = modules.Encoder()
    samples = [tokens(1, 6), tokens(2, 9)]
    loaded = read(net, samples=samples, work=tmp_path)
    assert [spec.name for spec in loaded.graph.inputs] == ["ids", "mask"]
    assert [spec.name for spec in loaded.graph.outputs] == ["hidden", "pooled_0", "pooled_1"]
    assert loaded.graph.inputs[0].shape is not None
    assert loaded.graph.inputs[0].shape[0] == "batch"
    assert loaded.graph.inputs[0].shape == loaded.graph.inputs[1].shape
    feeds = tokens(3, 11)
    with torch.no_grad():
        expected = net.eval()(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    answers = Evaluator(loaded.graph).run(feeds)
    assert answers["hidden"] == pytest.approx(expected["hidden"].numpy(), abs=1e-5)
    assert answers["pooled_1"] == pytest.approx(expected["pooled"][1].numpy(), abs=1e-5)
    assert max(check(loaded, [feeds]).values()) < 1e-5


def test_arguments_are_found_by_name_in_any_order() -> None:
    specs = ["mask=1x6:int64", "bias=1x6x16", "ids=1x6:int64"]
    loaded = read(modules.Encoder(), inputs=specs)
    assert [str(s) for s in loaded.graph.inputs] == [
        "ids: int64[batchx6]",
        "mask: int64[batchx6]",
        "bias: float32[batchx6x16]",
    ]


def test_other_names_are_taken_in_order() -> None:
    loaded = read(modules.Recurrent(), inputs=["x:0=1x4x6"])
    assert [spec.name for spec in loaded.graph.inputs] == ["x:0"]
    assert [spec.name for spec in loaded.graph.outputs] == ["output_0", "output_1"]


def test_a_batch_that_cannot_be_dynamic_is_fixed_with_the_reason() -> None:
    loaded = read(modules.Unbatched(), inputs=["x=1x6"])
    assert loaded.graph.inputs[0].shape == (1, 6)
    assert "the batch axis is fixed at 1" in loaded.notes[0]
    assert "one sample only" in loaded.notes[0]


def test_a_batch_that_tracing_fixed_is_that_of_the_example() -> None:
    loaded = read(modules.Looping(), inputs=["x=1x3"])
    assert loaded.graph.inputs[0].shape == (1, 3)
    assert "the batch axis is fixed at 1" in loaded.notes[0]
    ragged = [{"x": np.ones((4, 3), np.float32)}, {"x": np.ones((2, 3), np.float32)}]
    loaded = read(modules.Looping(), samples=ragged)
    assert loaded.graph.inputs[0].shape == (4, 3)
    assert "the batch axis is fixed at 4" in loaded.notes[0]


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch about its own GRU
def test_a_length_that_tracing_fixed_is_said() -> None:
    samples = [{"steps": np.ones((2, length, 6), np.float32)} for length in (5, 3)]
    loaded = read(modules.Recurrent(), samples=samples)
    [spec] = loaded.graph.inputs
    assert spec.shape == ("batch", 5, 6)
    assert "axis 1 of input 'steps' is fixed at 5" in loaded.notes[0]


def test_outputs_that_are_no_tensors_are_left_out_and_any_name_is_taken(tmp_path: Path) -> None:
    loaded = read(modules.Mixed(), inputs=["x=1x3", "y=1x3"], work=tmp_path)
    assert [str(s) for s in (*loaded.graph.inputs, *loaded.graph.outputs)] == [
        "x: float32[batchx3]",
        "y: float32[batchx3]",
        "output_1: float32[batchx3]",
        "output_3_0: float32[batch]",
        "output_3_1: int64[batch]",
    ]
    check(loaded, [{name: RNG.normal(size=(5, 3)).astype(np.float32) for name in "xy"}])
    with pytest.raises(ModelError, match="Silent: it returns no tensors"):
        read(modules.Silent(), inputs=["x=1x3"])


def test_names_that_values_inside_have_too(tmp_path: Path) -> None:
    loaded = read(modules.Clashing(), inputs=["linear=1x3", "relu=1x3"], work=tmp_path)
    assert [spec.name for spec in loaded.graph.inputs] == ["linear", "relu"]
    assert [spec.name for spec in loaded.graph.outputs] == ["add", "mul", "lin.weight"]
    check(loaded, [{name: RNG.normal(size=(5, 3)).astype(np.float32) for name in ("linear", "relu")}])


def test_what_a_module_changes_when_it_is_called() -> None:
    net = modules.Counting()
    samples = [{"x": RNG.normal(size=(2, 3)).astype(np.float32)} for _ in range(2)]
    given = [sample["x"].copy() for sample in samples]
    loaded = read(net, samples=samples)
    assert net.count.tolist() == [1]
    assert net.mean.tolist() == [1, 1, 1]
    assert "every call of the module changes its count, mean" in loaded.notes[0]
    for sample, before in zip(samples, given, strict=True):
        assert np.array_equal(sample["x"], before)
        answer = Evaluator(loaded.graph).run({"x": before})["output"]
        assert answer == pytest.approx((before + 1) * 2, abs=1e-6)


def test_first_axes_of_different_sizes_keep_names_of_their_own() -> None:
    sizes = {"x": 4, "table": 6}
    loaded = read(modules.Table(), samples=[{name: np.ones((n, 3), np.float32) for name, n in sizes.items()}])
    [x, table], [out] = loaded.graph.inputs, loaded.graph.outputs
    assert x.shape is not None
    assert table.shape is not None
    assert x.shape[0] == "batch" != table.shape[0]
    assert out.shape == (x.shape[0], table.shape[0])
    fixed = fix_shapes(loaded.graph, {name: (n, 3) for name, n in sizes.items()})
    assert fixed.outputs[0].shape == (4, 6)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_wrapped_modules() -> None:
    net = modules.conv_net()
    for wrapped in (torch.compile(net), torch.nn.DataParallel(net)):
        loaded = read(wrapped, inputs=["image=1x3x12x12"])
        assert [str(s) for s in loaded.graph.inputs] == ["image: float32[batchx3x12x12]"]
        assert "conv.weight" in loaded.graph.ir_model.graph.initializers
    script = torch.jit.trace(net.eval(), torch.ones(1, 3, 12, 12))
    with pytest.raises(InputError, match="TorchScript cannot be exported"):
        read(script, inputs=["image=1x3x12x12"])


@pytest.mark.parametrize(
    ("module", "spec", "message"),
    [
        (modules.conv_net().bfloat16(), "image=1x3x12x12:bfloat16", "cannot be bfloat16"),
        (modules.conv_net().to("meta"), "image=1x3x12x12", "on the meta device"),
        (modules.Noisy(), "x=1x3", "unless that draws random numbers"),
    ],
)
def test_numbers_that_cannot_be_compared(module: torch.nn.Module, spec: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(module, inputs=[spec])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((), r"what does ConvNet take\? its forward is forward\(image\); give --input"),
        (("image=1x3x12x12", "size=1x2"), r"inputs image, size do not fit ConvNet"),
        (("a=1x3x12x12", "b=1x2"), r"inputs a, b do not fit ConvNet, whose forward is forward\(image\)"),
        (("image=1x3xx",), "is not a shape"),
    ],
)
def test_inputs_that_do_not_fit_forward(inputs: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(modules.ConvNet(), inputs=inputs)


def test_modules_that_cannot_be_traced() -> None:
    with pytest.raises(ModelError, match=r"ConvNet: tracing ConvNet with torch\.export failed.*3 channels"):
        read(modules.ConvNet(), inputs=["image=1x4x12x12"])
    with pytest.raises(ModelError, match=r"tracing Branching with torch\.export failed") as caught:
        read(modules.Branching(), inputs=["x=1x4"])
    assert "\n" not in str(caught.value)


def test_functions_and_programs_in_a_process_of_their_own(tmp_path: Path) -> None:
    loaded = read("loaders.modules:conv_net", inputs=["image=1x3x12x12"], work=tmp_path)
    assert (loaded.source, loaded.format) == ("loaders.modules:conv_net", "torch")
    assert {path.name for path in tmp_path.iterdir()} == {"eager.pt2", "eager.signature.json"}
    assert loaded.eager == tmp_path / "eager.pt2"
    x = images(2)
    with torch.no_grad():
        expected = modules.conv_net().eval()(torch.from_numpy(x)).numpy()
    assert Evaluator(loaded.graph).run({"image": x})["output"] == pytest.approx(expected, abs=1e-5)
    # What was saved for timing is itself a program that can be loaded.
    again = read(loaded.eager)
    assert (again.source, again.format, again.eager) == ("eager.pt2", "pt2", None)
    assert [str(s) for s in again.graph.inputs] == ["image: float32[batchx3x12x12]"]
    assert Evaluator(again.graph).run({"image": x})["output"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "loaders.modules:no_module",
            r"the function returned a builtins\.int; it must return a torch\.nn\.Module",
        ),
        (
            "loaders.modules:missing_weights",
            "calling the function failed: FileNotFoundError: weights.pt is not",
        ),
    ],
)
def test_functions_that_give_no_module(name: str, message: str) -> None:
    with pytest.raises(InputError, match=f"{name}: .*{message}"):
        read(name)


def test_programs_that_change_something_or_give_numbers() -> None:
    program = torch.export.export(modules.Counting(), (torch.zeros(2, 3),))
    loaded = read(program)
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    assert Evaluator(loaded.graph).run({"x": x})["output"] == pytest.approx((x + 1) * 2, abs=1e-6)
    assert program.state_dict["count"].tolist() == [1]
    assert "every call of the module changes its count, mean" in loaded.notes[0]
    with pytest.raises(ModelError, match="running the program failed"):
        read(program, samples=[{"x": x.astype(np.int64)[:, :2]}])
    with pytest.raises(ModelError, match="its outputs hold 3, which is no tensor"):
        read(torch.export.export(modules.Silent(), (torch.zeros(2, 3),)))


@pytest.mark.filterwarnings("ignore:The tensor attributes")  # torch about its own GRU
def test_an_exported_program_object(tmp_path: Path) -> None:
    program = torch.export.export(modules.Recurrent().eval(), (torch.zeros(2, 4, 6),))
    loaded = read(program, work=tmp_path)
    assert [str(s) for s in loaded.graph.inputs] == ["steps: float32[2x4x6]"]
    with pytest.raises(InputError, match="leave --input out"):
        read(program, inputs=["steps=1x4x6"])


def test_without_torch_the_way_out_is_said(tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(b"x")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from hasten.loaders import read\n"
        "from hasten.core.errors import Unavailable\n"
        "try: read(sys.argv[1])\n"
        "except Unavailable as e: print(e)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "net.pt2")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "net.pt2 needs PyTorch, which is not installed; pip install 'hasten[torch]'\n"


def test_reading_onnx_imports_no_torch(tmp_path: Path) -> None:
    from small_graphs import mlp

    mlp().write(tmp_path / "model.onnx")
    code = "import sys; from hasten.loaders import read; read(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.onnx")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_a_graph_made_wrong_is_noticed(tmp_path: Path) -> None:
    loaded = read(modules.conv_net(), inputs=["image=1x3x12x12"], work=tmp_path)
    wrong: Graph = loaded.graph.copy()
    node = next(n for n in wrong.ir_model.graph if n.op_type == "Relu")
    node.op_type = "Tanh"
    object.__setattr__(loaded, "graph", wrong)
    with pytest.raises(ModelError, match=r"ConvNet: .*output 'output', the largest difference is 0\.\d+ of"):
        check(loaded, [{"image": images(2)}])

"""Random graphs made of everything the rewrites look for: together they must keep what is computed."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from hasten.graph import Graph
from hasten.graph.evaluate import Evaluator
from hasten.rewrites import ALL, remove_unused
from hasten.rewrites.equality import Equality

CHANNELS, SIDE = 6, 8
ROUNDS = 8


class Draw:
    """Draws nodes that map [n, 6, 8, 8] to [n, 6, 8, 8], on any of the values drawn so far."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights, self.values = [], [], ["x"]

    def pick(self):
        """A value, a late one rather than an early one, so that chains come about."""
        back = min(int(self.rng.geometric(0.6)), len(self.values))
        return self.values[-back]

    def weight(self, array):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def number(self, *shape):
        return self.weight(self.rng.uniform(0.3, 1.3, shape).astype(np.float32))

    def integers(self, *values):
        return self.weight(np.asarray(values, np.int64))

    def node(self, op_type, inputs, count=1, **attributes):
        names = [f"v{len(self.nodes)}_{i}" for i in range(count)]
        self.nodes.append(helper.make_node(op_type, inputs, names, name=f"n{len(self.nodes)}", **attributes))
        return names[0]

    def step(self):
        kinds = [name for name in dir(self) if name.startswith("draw_")]
        self.values.append(getattr(self, self.rng.choice(kinds))(self.pick()))

    def draw_conv(self, x):
        groups = int(self.rng.choice([1, 2, 3, 6]))
        kernel = self.rng.normal(size=(CHANNELS, CHANNELS // groups, 3, 3)) / np.sqrt(9 * CHANNELS / groups)
        inputs = [x, self.weight(kernel.astype(np.float32))]
        if self.rng.random() < 0.5:
            inputs.append(self.number(CHANNELS))
        if self.rng.random() < 0.3:
            amounts = [0, 0, 1, 1, 0, 0, 1, 1]
            padded = self.node("Pad", [x, self.integers(*amounts)])
            return self.node("Conv", [padded, *inputs[1:]], group=groups)
        return self.node("Conv", inputs, pads=[1, 1, 1, 1], group=groups)

    def draw_pointwise_conv(self, x):
        kernel = self.rng.normal(size=(CHANNELS, CHANNELS, 1, 1)) / np.sqrt(CHANNELS)
        return self.node("Conv", [x, self.weight(kernel.astype(np.float32))])

    def draw_transposed_conv(self, x):
        kernel = self.rng.normal(size=(CHANNELS, CHANNELS, 1, 1)) / np.sqrt(CHANNELS)
        return self.node("ConvTranspose", [x, self.weight(kernel.astype(np.float32))])

    def draw_matmul(self, x):
        product = self.node("MatMul", [x, self.weight((np.eye(SIDE) * 0.9).astype(np.float32))])
        return self.node("Add", [product, self.number(SIDE)]) if self.rng.random() < 0.7 else product

    def draw_batch_norm(self, x):
        return self.node("BatchNormalization", [x, *(self.number(CHANNELS) for _ in range(4))])

    def draw_arithmetic(self, x):
        shapes = [(), (1,), (CHANNELS, 1, 1), (1, CHANNELS, 1, 1), (SIDE,), (SIDE, 1), (1, 1, 1, 1)]
        constant = self.number(*shapes[self.rng.integers(len(shapes))])
        kind = str(self.rng.choice(["Mul", "Add", "Sub", "Div"]))
        swapped = kind != "Div" and self.rng.random() < 0.4
        return self.node(kind, [constant, x] if swapped else [x, constant])

    def draw_activation(self, x):
        return self.node(str(self.rng.choice(["Relu", "Sigmoid", "Tanh", "Identity", "Softplus"])), [x])

    def draw_hardswish(self, x):
        number = [self.weight(np.float32(v)) for v in (3, 0, 6, 6)]
        clipped = self.node("Clip", [self.node("Add", [x, number[0]]), number[1], number[2]])
        return self.node("Div", [self.node("Mul", [x, clipped]), number[3]])

    def draw_gelu(self, x):
        number = [self.weight(np.float32(v)) for v in (1.4142135, 1, 0.5)]
        erf = self.node("Erf", [self.node("Div", [x, number[0]])])
        return self.node("Mul", [self.node("Mul", [x, self.node("Add", [erf, number[1]])]), number[2]])

    def draw_layer_norm(self, x):
        axes = self.integers(-1)
        centred = self.node("Sub", [x, self.node("ReduceMean", [x, axes])])
        square = self.node("Pow", [centred, self.weight(np.float32(2))])
        spread = self.node("Add", [self.node("ReduceMean", [square, axes]), self.weight(np.float32(0.1))])
        scaled = self.node("Div", [centred, self.node("Sqrt", [spread])])
        return self.node("Add", [self.node("Mul", [scaled, self.number(SIDE)]), self.number(SIDE)])

    def draw_there_and_back(self, x):
        y = self.node("Transpose", [x], perm=[0, 2, 3, 1])
        if self.rng.random() < 0.5:
            y = self.node("Relu", [y])
        if self.rng.random() < 0.5:
            y = self.node("Mul", [y, self.number(CHANNELS)])
        return self.node("Transpose", [y], perm=[0, 3, 1, 2])

    def draw_computed_reshape(self, x):
        shape = self.node("Shape", [x])
        batch = self.node("Gather", [shape, self.weight(np.asarray(0))])
        row = self.node("Unsqueeze", [batch, self.integers(0)])
        flat = self.node("Reshape", [x, self.node("Concat", [row, self.integers(-1)], axis=0)])
        if self.rng.random() < 0.5:
            flat = self.node("Mul", [flat, self.number()])
        return self.node("Reshape", [flat, shape])

    def draw_casts(self, x):
        return self.node("Cast", [self.node("Cast", [x], to=TensorProto.DOUBLE)], to=TensorProto.FLOAT)

    def draw_slices(self, x):
        y = x
        for axis in (2, 3):
            bounds = [self.integers(0), self.integers(2**62), self.integers(axis), self.integers(2)]
            y = self.node("Slice", [y, *bounds])
        rows = self.node("Concat", [y, y], axis=2)
        return self.node("Concat", [rows, rows], axis=3)

    def draw_sum(self, x):
        return self.node("Add", [x, self.pick()])

    def draw_join(self, x):
        both = self.node("Concat", [x, self.pick()], axis=1)
        kernel = self.rng.normal(size=(CHANNELS, 2 * CHANNELS, 1, 1)) / np.sqrt(2 * CHANNELS)
        return self.node("Conv", [both, self.weight(kernel.astype(np.float32))])

    def graph(self, steps):
        for _ in range(steps):
            self.step()
        outputs = [self.values[-1], *([self.pick()] if self.rng.random() < 0.3 else [])]
        shape, kind = ["n", CHANNELS, SIDE, SIDE], TensorProto.FLOAT
        names = [name for name in dict.fromkeys(outputs) if name != "x"]
        made = helper.make_graph(
            self.nodes,
            "drawn",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(name, kind, shape) for name in names],
            self.weights,
        )
        model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return Graph(ir.serde.deserialize_model(model))


def settle(made):
    """All rewrites in order, each swept up after, until none changes anything."""
    for _ in range(ROUNDS):
        changed = False
        for rewrite in ALL.values():
            if rewrite(made).sites:
                changed = True
                remove_unused.apply(made)
        if not changed:
            return True
    return False


@pytest.mark.parametrize("seed", range(40))
def test_everything_together(seed):
    made = Draw(seed).graph(4 + seed % 12)
    before = made.ir_model.graph.num_nodes()
    feeds = [
        {"x": np.random.default_rng(1).normal(size=(n, CHANNELS, SIDE, SIDE)).astype(np.float32)}
        for n in (1, 2)
    ]
    equality = Equality(made, feeds)
    assert settle(made)
    assert made.ir_model.graph.num_nodes() <= before
    assert equality.difference(made) is None
    assert Evaluator(made).run(feeds[0]).keys() == {spec.name for spec in made.outputs}

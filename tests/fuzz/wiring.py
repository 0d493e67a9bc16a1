"""What is connected to what: names, nodes, inputs and outputs."""

from __future__ import annotations

from random import Random

import onnx
from onnx import helper

from .parts import some_graph, some_node, strange_name, value_names


def rename_node_input(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None and node.input:
        node.input[rng.randrange(len(node.input))] = strange_name(rng, model)


def rename_node_output(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None and node.output:
        node.output[rng.randrange(len(node.output))] = strange_name(rng, model)


def rename_everywhere(rng: Random, model: onnx.ModelProto) -> None:
    """One value gets a strange name wherever it is used, so that the model stays valid."""
    names = value_names(model.graph)
    if not names:
        return
    old, new = rng.choice(names), strange_name(rng, model)
    for holder in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        holder.name = new if holder.name == old else holder.name
    for node in model.graph.node:
        for names_of in (node.input, node.output):
            for i, name in enumerate(names_of):
                names_of[i] = new if name == old else name


def rename_node(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        node.name = strange_name(rng, model)


def drop_node(rng: Random, model: onnx.ModelProto) -> None:
    nodes = some_graph(rng, model).node
    if nodes:
        del nodes[rng.randrange(len(nodes))]


def duplicate_node(rng: Random, model: onnx.ModelProto) -> None:
    nodes = some_graph(rng, model).node
    if nodes:
        nodes.append(rng.choice(nodes))


def reorder_nodes(rng: Random, model: onnx.ModelProto) -> None:
    nodes = some_graph(rng, model).node
    shuffled = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    rng.shuffle(shuffled)
    del nodes[:]
    nodes.extend(shuffled)


def add_inputs_to_node(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        node.input.extend(strange_name(rng, model) for _ in range(rng.choice((1, 3, 200))))


def drop_inputs_of_node(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None and node.input:
        del node.input[rng.randrange(len(node.input)) :]


def add_outputs_to_node(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        node.output.extend(f"more_{i}" for i in range(rng.choice((1, 3, 200))))


def drop_outputs_of_node(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        del node.output[:]


def cycle(rng: Random, model: onnx.ModelProto) -> None:
    """An early node is fed what a later one makes."""
    nodes = some_graph(rng, model).node
    if len(nodes) < 2:
        return
    early = rng.randrange(len(nodes) - 1)
    later = nodes[rng.randrange(early, len(nodes))]
    if nodes[early].input and later.output:
        nodes[early].input[rng.randrange(len(nodes[early].input))] = later.output[0]


def drop_graph_input(rng: Random, model: onnx.ModelProto) -> None:
    values = some_graph(rng, model).input
    if values:
        del values[rng.randrange(len(values))]


def duplicate_graph_input(rng: Random, model: onnx.ModelProto) -> None:
    values = some_graph(rng, model).input
    if values:
        values.append(rng.choice(values))


def drop_graph_output(rng: Random, model: onnx.ModelProto) -> None:
    values = some_graph(rng, model).output
    if values:
        del values[rng.randrange(len(values))]


def add_graph_output(rng: Random, model: onnx.ModelProto) -> None:
    graph = some_graph(rng, model)
    graph.output.append(helper.make_tensor_value_info(strange_name(rng, model), onnx.TensorProto.FLOAT, None))


def swap_graph_ends(rng: Random, model: onnx.ModelProto) -> None:
    """Inputs become outputs and outputs inputs."""
    graph = some_graph(rng, model)
    ins, outs = list(graph.input), list(graph.output)
    copies = [[onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in side] for side in (outs, ins)]
    del graph.input[:], graph.output[:]
    graph.input.extend(copies[0])
    graph.output.extend(copies[1])


def weights_as_inputs(rng: Random, model: onnx.ModelProto) -> None:
    """As before IR version 4: every weight is an input with a default, sometimes of another type."""
    graph = some_graph(rng, model)
    for tensor in graph.initializer:
        dtype = tensor.data_type if rng.random() < 0.9 else rng.choice((0, 1, 7, 8, 99))
        shape = list(tensor.dims) if rng.random() < 0.9 else [3]
        graph.input.append(helper.make_tensor_value_info(tensor.name, dtype, shape))


def change_operator(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        schemas = onnx.defs.get_all_schemas()
        node.op_type = rng.choice((rng.choice(schemas).name, "", "Nothing", strange_name(rng, model)))


def change_domain(rng: Random, model: onnx.ModelProto) -> None:
    node = some_node(rng, model)
    if node is not None:
        node.domain = rng.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", "mine", "a.b", "\n", "d" * 3000))
        node.overload = rng.choice(("", "", "2", "\0"))


def long_chain(rng: Random, model: onnx.ModelProto) -> None:
    """Many nodes in a row: recursion over the graph would end here."""
    graph = model.graph
    if not graph.output:
        return
    last = graph.output[0].name
    for i in range(1500):
        graph.node.append(helper.make_node("Identity", [last], [f"chain_{i}"]))
        last = f"chain_{i}"
    graph.output[0].name = last


def many_inputs(rng: Random, model: onnx.ModelProto) -> None:
    """Hundreds of inputs: work that grows with their square would show here."""
    model.graph.input.extend(
        helper.make_tensor_value_info(f"in_{i}", onnx.TensorProto.FLOAT, [1]) for i in range(600)
    )

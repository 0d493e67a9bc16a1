"""From a PyTorch module or exported program to an ONNX file, with its answers to example inputs."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx_ir.passes import PassError
from torch.utils import _pytree as pytree

from hasten.core.data import Array
from hasten.core.errors import InputError, ModelError, one_line
from hasten.core.named import user_code
from hasten.core.recipe import Json
from hasten.graph import Graph
from hasten.loaders.agree import read_runs, write_runs
from hasten.loaders.conversion import Conversion
from hasten.loaders.exported import rename
from hasten.loaders.pt2 import SIGNATURE_SUFFIX, open_program
from hasten.loaders.torch_call import Call, doubled

Source = torch.nn.Module | torch.export.ExportedProgram


def convert_file(source: str, inputs: list[str], samples: str | None, work: str) -> dict[str, Json]:
    """Child side: convert a ``.pt2`` file, as ``Conversion.to_json``; raises InputError, ModelError."""
    given = None if samples is None else read_runs(Path(samples))
    return convert(open_program(Path(source)), inputs, given, Path(work)).to_json()


def answer(program: str, feeds: str, answers: str) -> None:
    """Child side: run a ``.pt2`` program on feeds, given in its inputs' order, and write its answers."""
    opened = open_program(Path(program))
    runs = []
    with torch.no_grad():
        for feed in read_runs(Path(feeds)):
            outputs = _call_program(opened, [torch.from_numpy(array) for array in feed.values()], set())
            runs.append(_named_arrays(outputs, feed))
    write_runs(Path(answers), runs)


def convert(
    source: Source, inputs: Sequence[str], samples: Sequence[Mapping[str, Array]] | None, work: Path
) -> Conversion:
    """Convert to ONNX with the batch axis dynamic where the model allows it.

    A module is put in eval mode meanwhile; afterwards its modes are as they were, and its weights are not
    touched. Raises InputError when the inputs do not fit ``forward``, ModelError when it cannot be converted.
    """
    if isinstance(source, torch.export.ExportedProgram):
        if inputs:
            raise InputError("a .pt2 program knows its inputs; leave --input out")
        return _convert_program(source, samples, work)
    source = _unwrapped(source)
    modes = [(module, module.training) for module in source.modules()]
    source.eval()
    try:
        with torch.no_grad():
            return _convert_module(source, inputs, samples, work)
    finally:
        for module, training in modes:
            module.training = training


def _unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module that torch.compile or data parallelism holds: only it says what it takes.

    Raises InputError for what has no Python left to trace.
    """
    while True:
        if isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(module, torch._dynamo.OptimizedModule):
            module = module._orig_mod
        elif isinstance(module, torch.jit.ScriptModule):
            raise InputError("TorchScript cannot be exported; give the torch.nn.Module it was made from")
        else:
            return module


def _convert_module(
    module: torch.nn.Module,
    inputs: Sequence[str],
    samples: Sequence[Mapping[str, Array]] | None,
    work: Path,
) -> Conversion:
    call = Call.of(module, inputs, samples)
    program, notes = capture(module, call)
    fixed = fixed_axes(program)
    changed: set[str] = set()
    runs, answers = [], []
    for tensors in call.runs:
        if not fits(tensors, fixed):
            continue  # the program has this size no longer, as its notes say
        # A module may write into what it is given.
        runs.append({name: _array(tensor) for name, tensor in zip(call.names, tensors, strict=True)})
        args, kwargs = call.arguments(tensors)
        with _restored(module, changed), user_code(f"running {type(module).__name__}", ModelError):
            answers.append(_named_arrays(module(*args, **kwargs), call.names))
    notes += (*_axis_notes(call, fixed), *_state_note(changed))
    return write(program, runs, answers, work, notes)


@contextmanager
def _restored(module: torch.nn.Module, changed: set[str]) -> Iterator[None]:
    """Put buffers back that are changed meanwhile, and add their names: what is only read stays as it was."""
    held = [(name, buffer, buffer.clone(), buffer._version) for name, buffer in module.named_buffers()]
    try:
        yield
    finally:
        for name, buffer, values, version in held:
            if module.get_buffer(name) is not buffer or buffer._version != version:
                changed.add(name)
                owner, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(owner), leaf, buffer.copy_(values))


def _axis_notes(call: Call, fixed: Sequence[Mapping[int, int]]) -> tuple[str, ...]:
    return tuple(
        f"axis {axis} of input {name!r} is fixed at {sizes[axis]}, the size in the first sample: PyTorch "
        "traced the module for this size alone"
        for name, varying, sizes in zip(call.names, call.varying, fixed, strict=True)
        for axis in sorted(varying & sizes.keys())
    )


def _state_note(changed: set[str]) -> tuple[str, ...]:
    if not changed:
        return ()
    return (
        f"every call of the module changes its {', '.join(sorted(changed))}; the graph keeps nothing, "
        "it always begins with the present values",
    )


def _convert_program(
    program: torch.export.ExportedProgram, samples: Sequence[Mapping[str, Array]] | None, work: Path
) -> Conversion:
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    runs: list[dict[str, Array]] = []
    for sample in samples or ():
        if set(sample) != set(names):
            raise InputError(
                f"the program's inputs are {', '.join(names)}, the data have {', '.join(sample)}"
            )
        runs.append({name: sample[name] for name in names})
    if not runs:
        examples = pytree.tree_leaves(program.example_inputs)
        tensors = [value for value in examples if isinstance(value, torch.Tensor)]
        if len(tensors) != len(names):
            raise ModelError("the program carries no example inputs; give data, or export it again")
        runs = [{name: _array(tensor) for name, tensor in zip(names, tensors, strict=True)}]
    numbers = [out for out in program.graph_signature.user_outputs if not isinstance(out, str | None)]
    if numbers:
        raise ModelError(f"its outputs hold {numbers[0]!r}, which is no tensor; export it with tensors alone")
    answers = []
    changed: set[str] = set()
    with torch.no_grad():
        for run in runs:
            tensors = [torch.tensor(array) for array in run.values()]
            with user_code("running the program", ModelError):
                answers.append(_named_arrays(_call_program(program, tensors, changed), names))
    return write(program, runs, answers, work, _state_note(changed))


def _call_program(
    program: torch.export.ExportedProgram, tensors: Sequence[torch.Tensor], changed: set[str]
) -> Any:
    """Call a program with its tensors in order; inputs that were constants when it was exported stay so.

    Buffers are as before afterwards; the names of those that the call changed are added.
    """
    waiting = iter(tensors)
    leaves = [
        next(waiting) if isinstance(name, str) else name for name in program.graph_signature.user_inputs
    ]
    args, kwargs = pytree.tree_unflatten(leaves, program.call_spec.in_spec)
    module = program.module()
    with _restored(module, changed):
        return module(*args, **kwargs)


def capture(module: torch.nn.Module, call: Call) -> tuple[torch.export.ExportedProgram, tuple[str, ...]]:
    """Trace the module, with a dynamic batch if it can be; raises ModelError.

    The program takes the inputs in order, and gives the tensors among the outputs.
    """
    batch = torch.export.Dim("batch", min=1)
    attempts: list[tuple[tuple[torch.Tensor, ...], tuple[dict[int, Any], ...] | None]] = [
        (doubled(call.runs[0]), call.dynamic(batch)),
        (doubled(call.runs[0]), call.dynamic(torch.export.Dim.AUTO)),
        (call.runs[0], None),
    ]
    first: ModelError | None = None
    for tensors, dynamic in attempts:
        try:
            # Tracing runs the user's module.
            with (
                _quiet(),
                _flattened(module, call),
                user_code(f"tracing {type(module).__name__} with torch.export", ModelError),
            ):
                program = torch.export.export(module, tensors, dynamic_shapes=dynamic, strict=False)
        except ModelError as error:
            first = first or error
            continue
        fixed = fixed_axes(program)
        # Twice the sample can have become the only size there is.
        if dynamic is None or fits(call.runs[0], fixed):
            return program, _batch_note(call, fixed, first)
    assert first is not None
    raise first


@contextmanager
def _flattened(module: torch.nn.Module, call: Call) -> Iterator[None]:
    """Let the module take tensors in order and give one tensor or a tuple of them.

    torch.onnx knows no other outputs, torch.export.save only some classes of them, and torch.export no
    dynamic shapes for ``**kwargs``. A module around it would change the names of the weights.
    """
    forward, own = module.forward, module.__dict__.get("forward")

    def flat(*tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        args, kwargs = call.arguments(tensors)
        outputs = forward(*args, **kwargs)
        if isinstance(outputs, torch.Tensor):
            return outputs
        return tuple(leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor))

    flat.__signature__ = call.signature  # type: ignore[attr-defined]
    module.__dict__["forward"] = flat
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if own is not None:
            module.__dict__["forward"] = own


def fixed_axes(program: torch.export.ExportedProgram) -> list[dict[int, int]]:
    """Sizes of the axes of each input that can have no other."""
    nodes = {node.name: node for node in program.graph.nodes}
    values = [nodes[str(name)].meta["val"] for name in program.graph_signature.user_inputs]
    # An axis that tracing found to be fixed is a symbol still, written as a number.
    return [
        {axis: int(str(size)) for axis, size in enumerate(value.shape) if str(size).isdigit()}
        for value in values
    ]


def fits(tensors: Sequence[torch.Tensor], fixed: Sequence[Mapping[int, int]]) -> bool:
    """Whether inputs have the sizes that ``fixed_axes`` says."""
    return all(
        tensor.shape[axis] == size
        for tensor, sizes in zip(tensors, fixed, strict=True)
        for axis, size in sizes.items()
    )


def _batch_note(call: Call, fixed: Sequence[Mapping[int, int]], reason: Exception | None) -> tuple[str, ...]:
    sizes = [sizes.get(0) for tensor, sizes in zip(call.runs[0], fixed, strict=True) if tensor.ndim]
    if None in sizes or not sizes:
        return ()
    why = f": {one_line(str(reason), 200)}" if reason is not None else ""
    return (f"the batch axis is fixed at {sizes[0]}, the module does not allow others{why}",)


def write(
    program: torch.export.ExportedProgram,
    runs: Sequence[Mapping[str, Array]],
    answers: Sequence[Mapping[str, Array]],
    work: Path,
    notes: tuple[str, ...],
) -> Conversion:
    """Leave a program as ONNX and as ``.pt2``, with its runs and answers; raises ModelError."""
    done = Conversion(
        format="torch",
        onnx=work / "imported.onnx",
        program=work / "eager.pt2",
        feeds=work / "imported-feeds.npz",
        answers=work / "imported-answers.npz",
        notes=notes,
    )
    assert done.program is not None
    assert done.feeds is not None
    assert done.answers is not None
    names = list(runs[0]), list(answers[0])
    if not names[1]:
        raise ModelError("it returns no tensors, so there is nothing to convert")
    with _quiet():
        torch.export.save(program, done.program)
        signature = json.dumps({"inputs": names[0], "outputs": names[1]})
        done.program.with_suffix(SIGNATURE_SUFFIX).write_text(signature, encoding="utf-8")
        try:
            exported = _to_onnx(program, optimize=True)
        except (torch.onnx.OnnxExporterError, PassError):
            # The exporter's own optimizer fails on some graphs that it can convert.
            try:
                exported = _to_onnx(program, optimize=False)
            except torch.onnx.OnnxExporterError as error:
                raise ModelError(f"torch.onnx cannot convert it: {_cause(error)}") from error
    rename(exported.model.graph, *names)
    Graph(exported.model).write(done.onnx)
    write_runs(done.feeds, runs)
    write_runs(done.answers, answers)
    return done


def _to_onnx(program: torch.export.ExportedProgram, optimize: bool) -> torch.onnx.ONNXProgram:
    exported = torch.onnx.export(program, dynamo=True, optimize=optimize, verbose=False)
    assert exported is not None
    return exported


def _cause(error: BaseException) -> str:
    """The innermost message of a chain: the outer ones are advice on how to report bugs to PyTorch."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(str(error))}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself off the user's terminal; errors are raised all the same."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    nowhere = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stdout(nowhere), redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _array(tensor: torch.Tensor) -> Array:
    """A copy of its values; raises ModelError where numpy has no such numbers, or there are none."""
    if tensor.is_meta:
        raise ModelError("its weights are on the meta device, so it has none; load them first")
    if tensor.dtype == torch.bfloat16:
        raise ModelError("its inputs and outputs cannot be bfloat16; give module.float(), and float32 inputs")
    return np.array(tensor.detach().cpu().numpy())


def _named_arrays(outputs: Any, taken: Any) -> dict[str, Array]:
    """The tensors among a module's outputs by name: keys of dicts, ``output`` or ``output_0`` … otherwise."""
    found: dict[str, Array] = {}
    for path, value in pytree.tree_flatten_with_path(outputs)[0]:
        if not isinstance(value, torch.Tensor):
            continue
        parts = [str(_key(step)) for step in path]
        if not parts or isinstance(path[0], pytree.SequenceKey):
            parts.insert(0, "output")
        name = "_".join(parts)
        while name in found or name in taken:
            name += "_out"
        found[name] = _array(value)
    return found


def _key(step: Any) -> object:
    for field in ("key", "idx", "name"):
        if hasattr(step, field):
            return getattr(step, field)
    return step

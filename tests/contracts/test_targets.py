"""What every target owes."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
from small_graphs import feeds_of

from hasten import targets
from hasten.core.errors import InputError, TrialError, Unavailable
from hasten.core.record import Artifact
from hasten.core.target import TargetSpec
from hasten.graph.evaluate import Evaluator

NAMES = list(targets.TABLE)
EXPORTING = [name for group in targets.GROUPS.values() for name in group]


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def available(name):
    try:
        return targets.find(name).spec()
    except Unavailable as missing:
        pytest.skip(str(missing))


def test_options_are_a_frozen_keyword_only_dataclass(name):
    made = targets.options(name, {})
    assert made.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(made))


def test_an_unknown_option_is_refused_by_name(name):
    with pytest.raises(InputError, match=rf"{name}\.no_such_option"):
        targets.options(name, {"no_such_option": 1})


def test_spec_states_facts(name):
    spec = available(name)
    assert isinstance(spec, TargetSpec)
    assert spec.name == name
    assert spec.version
    assert "float32" in spec.compute_dtypes


def test_a_missing_runtime_says_how_to_install_it(name, monkeypatch):
    package = {"onnxruntime": "onnxruntime", "openvino": "openvino", "torch": "torch"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(Unavailable) as missing:
        targets.find(name).spec()
    assert missing.value.reason
    assert missing.value.remedy


def test_every_member_of_a_group_is_a_target():
    assert set(EXPORTING) <= set(NAMES)


@pytest.mark.parametrize("name", EXPORTING)
def test_export_open_run_computes_what_the_graph_says(name, any_graph, tmp_path):
    available(name)
    target = targets.find(name)
    options = targets.options(name, {"threads": 1})
    artifact = target.export(any_graph, tmp_path, options)
    assert isinstance(artifact, Artifact)
    assert artifact.target == name
    assert (tmp_path / artifact.entry).is_file()
    assert sum((tmp_path / file.path).stat().st_size for file in artifact.files) == artifact.size_bytes
    runner = target.open(artifact, tmp_path, options)
    assert {s.name for s in runner.inputs} == {s.name for s in any_graph.inputs}
    assert {s.name: s.dtype for s in runner.outputs} == {s.name: s.dtype for s in any_graph.outputs}
    feeds = feeds_of(any_graph)
    found, wanted = runner.run(feeds), Evaluator(any_graph, optimized=False).run(feeds)
    assert set(found) == set(wanted)
    for output, reference in wanted.items():
        # Sums of up to 512 float32 products in another order, and faster exp and erf: a few 1e-5 each
        np.testing.assert_allclose(found[output], reference, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", EXPORTING)
def test_outputs_belong_to_the_caller(name, any_graph, tmp_path):
    available(name)
    target = targets.find(name)
    options = targets.options(name, {"threads": 1})
    runner = target.open(target.export(any_graph, tmp_path, options), tmp_path, options)
    first = runner.run(feeds_of(any_graph, seed=1))
    kept = {output: value.copy() for output, value in first.items()}
    runner.run(feeds_of(any_graph, seed=2))
    for output, value in kept.items():
        np.testing.assert_array_equal(first[output], value)


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_not_a_model_fail_the_trial(name, tmp_path):
    available(name)
    (tmp_path / "model.bin").write_bytes(b"not a model")
    artifact = Artifact(target=name, entry="model.bin")
    with pytest.raises(TrialError):
        targets.find(name).open(artifact, tmp_path, targets.options(name, {}))

"""Eager PyTorch as the reference."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from hasten import targets
from hasten.core.errors import TrialError

from . import models

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, features, scale):
        hidden = self.linear(features) * scale
        return {"logits": hidden, "probabilities": hidden.softmax(-1)}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    net = Net().eval()
    program = torch.export.export(
        net,
        (torch.zeros(2, 4), torch.ones(1)),
        dynamic_shapes={"features": {0: torch.export.Dim("batch")}, "scale": None},
    )
    torch.export.save(program, tmp_path / "net.pt2")
    return net, tmp_path / "net.pt2"


def open_file(path):
    artifact, folder = targets.artifact_of(path, {"threads": 1})
    return targets.find("torch").open(artifact, folder, targets.options("torch", artifact.options))


def test_a_program_runs_as_the_module_did(saved):
    net, path = saved
    runner = open_file(path)
    assert [s.name for s in runner.inputs] == ["features", "scale"]
    assert runner.inputs[0].is_dynamic
    assert runner.inputs[1].shape == (1,)
    features, scale = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), np.ones(1, np.float32)
    found = list(runner.run({"features": features, "scale": scale}).values())
    with torch.inference_mode():
        wanted = net(torch.from_numpy(features), torch.from_numpy(scale))
    np.testing.assert_allclose(found[0], wanted["logits"].numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], wanted["probabilities"].numpy(), rtol=1e-5, atol=1e-6)


def test_a_program_exported_by_name_is_called_by_name(tmp_path):
    net = Net().eval()
    example = {"scale": torch.ones(1), "features": torch.zeros(2, 4)}
    torch.export.save(torch.export.export(net, (), example), tmp_path / "net.pt2")
    runner = open_file(tmp_path / "net.pt2")
    features, scale = np.ones((2, 4), np.float32), np.full(1, 2, np.float32)
    found = list(runner.run({"features": features, "scale": scale}).values())
    with torch.inference_mode():
        wanted = net(torch.from_numpy(features), torch.from_numpy(scale))
    np.testing.assert_allclose(found[0], wanted["logits"].numpy(), rtol=1e-5, atol=1e-6)


def test_a_missing_input_is_a_trial_error(saved):
    with pytest.raises(TrialError, match="scale"):
        open_file(saved[1]).run({"features": np.zeros((1, 4), np.float32)})


def test_nothing_is_exported_to_it(tmp_path):
    with pytest.raises(TrialError, match="reference"):
        targets.find("torch").export(models.classifier(), tmp_path, targets.options("torch", {}))


class Trap:
    def __reduce__(self):
        return (exec, ("import builtins; builtins.hasten_trap = True",))


def _rewrite(path, change):
    with zipfile.ZipFile(path) as archive:
        members = {i.filename: archive.read(i) for i in archive.infolist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_pickle_among_the_sample_inputs_is_not_run(saved):
    import builtins

    buffer = io.BytesIO()
    torch.save(Trap(), buffer, pickle_module=pickle)

    def plant(members):
        name = next(n for n in members if "sample_inputs" in n)
        members[name] = buffer.getvalue()

    _rewrite(saved[1], plant)
    with pytest.raises(TrialError):
        open_file(saved[1])
    assert not hasattr(builtins, "hasten_trap")


def test_a_file_that_is_no_program_is_a_trial_error(tmp_path):
    (tmp_path / "x.pt2").write_bytes(b"not a zip")
    with pytest.raises(TrialError):
        open_file(tmp_path / "x.pt2")

"""Which runtimes work here, and what they offer."""

import subprocess
import sys

import pytest

from hasten import targets
from hasten.core.errors import InputError, Unavailable
from hasten.core.target import cpu_flags
from hasten.targets.failure import one_line, runtime


def test_every_registered_target_is_listed():
    entries = targets.inventory()
    assert [e.name for e in entries][: len(targets.TABLE)] == list(targets.TABLE)
    for entry in entries:
        assert (entry.spec is None) == bool(entry.reason and entry.remedy)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "torch"])
def test_installed_targets_say_what_they_offer(name):
    entry = targets.describe(name)
    assert entry.spec is not None
    assert entry.spec.name == name
    assert entry.spec.version[0].isdigit()
    assert "float32" in entry.spec.compute_dtypes
    assert entry.spec.instructions <= cpu_flags()
    made = entry.to_dict()
    assert made["available"] is True
    assert made["compute_dtypes"] == sorted(entry.spec.compute_dtypes)


def test_dtypes_follow_from_the_instructions():
    flags = cpu_flags()
    for name in ("onnxruntime", "openvino"):
        dtypes = targets.find(name).spec().compute_dtypes
        assert ("int8" in dtypes) == bool(
            flags & {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"}
        )
    dtypes = targets.find("openvino").spec().compute_dtypes
    assert ("bfloat16" in dtypes) >= bool(flags & {"avx512_bf16", "amx_bf16"})


def test_a_missing_runtime_says_how_to_install_it():
    with pytest.raises(Unavailable) as caught:
        runtime("a_runtime_that_is_not_installed", "hasten[torch]")
    assert "pip install hasten[torch]" in caught.value.remedy
    assert "a_runtime_that_is_not_installed" in caught.value.reason


def test_an_unavailable_target_is_listed_with_its_remedy():
    # A fresh process in which torch cannot be imported, as after a plain `pip install hasten`.
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from hasten import targets\n"
        "entry = targets.describe('torch')\n"
        "print(entry.spec, '|', entry.to_dict())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None |")
    assert "pip install hasten[torch]" in done.stdout
    assert "'available': False" in done.stdout


def test_unknown_targets_are_refused():
    with pytest.raises(InputError, match="onnxruntime"):
        targets.find("abacus")


def test_opening_files_needs_neither_onnx_nor_torch():
    code = (
        "import sys; from hasten import targets\n"
        "targets.find('onnxruntime').spec(); targets.find('openvino').spec()\n"
        "print([m for m in ('onnx', 'onnx_ir', 'torch', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_messages_of_runtimes_fit_on_a_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError()) == "ValueError"
    assert len(one_line(ValueError("x" * 5000))) == 400

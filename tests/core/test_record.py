"""The record: what a ``hasten.json`` may not hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hasten.core.errors import RecordError
from hasten.core.record import RunRecord
from tests.report import records


def written(**changes: Any) -> str:
    return json.dumps({**json.loads(records.record().to_json()), **changes})


def test_another_schema_version_is_refused_first() -> None:
    assert RunRecord.parse(written()) == records.record()
    with pytest.raises(RecordError, match=r"schema_version: .* version 2, and this hasten reads version 1"):
        RunRecord.parse(written(schema_version=2, new_key=1))


def test_a_path_that_no_file_can_have_is_refused() -> None:
    entry = {"path": "a\0b", "sha256": "0" * 64, "bytes": 1}
    with pytest.raises(RecordError, match=r"files\.0\.path: .*NUL"):
        RunRecord.parse(written(files=[entry]))
    held = json.loads(written())["baseline"]
    artifact = {"target": "onnxruntime", "entry": "a\0b"}
    with pytest.raises(RecordError, match=r"baseline\.artifact\.entry: .*NUL"):
        RunRecord.parse(written(baseline={**held, "artifact": artifact}))

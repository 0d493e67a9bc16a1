"""A fault of hasten's own says that it is one."""

from __future__ import annotations

import pytest

from hasten.cli import main


def test_a_fault_keeps_its_traceback_and_says_how_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("hasten.targets.inventory", fail)
    monkeypatch.setattr("sys.argv", ["hasten", "targets"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "KeyError: 'a fault'" in said
    assert "This is a fault of hasten" in said

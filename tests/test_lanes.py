"""A step that fails fails the run, whatever else passes; what needs it is not run."""

from __future__ import annotations

import json
from pathlib import Path

import lanes
import pytest
from lanes import Run, Step


@pytest.mark.parametrize(
    ("command", "code", "closing"), [("exit 3", 1, "2 passed, 2 failed"), ("true", 0, "4 passed, 0 failed")]
)
def test_one_step_that_fails(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    code: int,
    closing: str,
) -> None:
    monkeypatch.setattr(lanes, "LOGS", tmp_path)
    run = Run()
    failing = Step("failing", ["sh", "-c", f"echo its last words; {command}"])
    run.lanes({"a": [failing, Step("needs it", ["true"], ["failing"])], "b": [Step("beside", ["true"])]})
    run.lanes({"c": [Step("afterwards", ["true"])]})
    assert lanes.report(run.outcomes, 1.0) == code
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == closing
    assert ("    its last words" in printed) is bool(code)
    steps = {item["name"]: item["code"] for item in json.loads((tmp_path / "results.json").read_text())["steps"]}
    assert steps == {"failing": 3 if code else 0, "needs it": None if code else 0, "beside": 0, "afterwards": 0}


def test_the_whole_of_it_has_every_step_of_the_check() -> None:
    whole, check = (
        {step.name for stage in lanes.stages([what]) for row in stage.values() for step in row}
        for what in ("test", "check")
    )
    assert check < whole
    with pytest.raises(ValueError, match="no step nonsense: name check, test, or steps out of build"):
        lanes.stages(["nonsense"])

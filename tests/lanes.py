"""Runs the project's checks, in lanes side by side: `python tests/lanes.py check`, `... test`, or steps by their names.

A lane runs its steps one after the other; a step waits for the steps that it needs. What a step prints goes to
`.cache/test/<step>.log`; here stands how far each is, the end of what failed, and a table. `.cache/test/results.json`
says the same to machines.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / ".cache/test"
# Seconds between two words on how far the steps are.
TICK_SECONDS = 20.0
SHOWN_LINES = 60
# The exit code of a shell that finds no such program.
NOT_FOUND = 127
CODES = re.compile(r"\x1b\[[0-9;]*m")
ENGINE = "/var/tmp/ambient-lab-engine"
AMBIENT_KIND = [sys.executable, "-m", "ambient_kind"]
PATHS = {"PYTHONPATH": f"{ROOT}/molecule/kind:{ROOT}/embedded"}


@dataclass(frozen=True)
class Step:
    """One program of a lane. needs: names of steps before it in the lane without which it proves nothing."""

    name: str
    command: Sequence[str]
    needs: Sequence[str] = ()
    environment: dict[str, str] = field(default_factory=dict)


Lanes = dict[str, list[Step]]


@dataclass
class Outcome:
    """How a step ended. code: its exit code, None where it was not run because another step had failed.

    processor: seconds of processor time of the step and of what it waited for; a lab's daemons are not in it.
    """

    name: str
    lane: str
    code: int | None
    seconds: float = 0.0
    processor: float = 0.0

    @property
    def words(self) -> str:
        """For the table."""
        return "not run" if self.code is None else "passed" if self.code == 0 else f"FAILED ({self.code})"


def static() -> list[Step]:
    """What reads the sources only."""
    stand_ins = [
        Step(f"mypy-{name}", ["mypy", f"embedded/{name}"], environment={"MYPYPATH": f"embedded/{name}/tests"})
        for name in ("ztunnel", "waypoint")
    ]
    return [
        Step(
            "pre-commit",
            ["pre-commit", "run", "--all-files"],
            environment={"PRE_COMMIT_HOME": f"{ROOT}/.cache/pre-commit"},
        ),
        Step("mypy", ["mypy"]),
        *stand_ins,
        Step("ansible-lint", ["ansible-lint"]),
    ]


def kind(environment: dict[str, str]) -> Step:
    """The scenario kind: on Docker where it answers, else on an engine that is made here.

    With an empty KIND_ENGINE it takes what is there, and is skipped where it cannot run.
    """
    scenario = ["molecule", "test", "-s", "kind"]
    if os.environ.get("KIND_ENGINE") == "":
        return Step("molecule-kind", scenario, environment=environment)
    required = {**environment, "AMBIENT_KIND_REQUIRED": "1"}
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0:
        return Step("molecule-kind", scenario, environment=required)
    ours = {**required, **PATHS}
    return Step("molecule-kind", [*AMBIENT_KIND, "run", ENGINE, *scenario], environment=ours)


def pytest(name: str, *arguments: str) -> Step:
    """Tests on all processors; a file's tests share what it makes. Those of `integration` start programs: slow ones."""
    return Step(name, [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *arguments])


def machine(action: str) -> Step:
    """Write down the state of this machine, or compare it: nothing that was started may have left anything behind."""
    return Step(f"machine-{action}", [sys.executable, "tests/state.py", "host", action, str(LOGS / "machine.json")])


def stages(chosen: Sequence[str]) -> list[Lanes]:
    """The steps of `check`, of `test`, which is all there is, or those named; raises ValueError for another name."""
    unit, integration = pytest("unit", "--ignore=tests/integration"), pytest("integration", "tests/integration")
    # The scenarios themselves can't compare the machine's state while others run beside them.
    beside = {"AMBIENT_COMPARED_OUTSIDE": "1"} if list(chosen) == ["test"] else {}
    on_kind = kind(beside)
    # With those of kind, where it is made here: what both are built of is compiled once.
    build = Step("build", ["ansible-playbook", "playbooks/build.yml"])
    if on_kind.command[:3] == AMBIENT_KIND:
        build = Step("build", [*AMBIENT_KIND, "build"], environment=PATHS)
    sanity = Step("sanity", [sys.executable, "tests/sanity.py"])
    second = {"AMBIENT_MOLECULE_LAB": "molecule-second", "MOLECULE_EPHEMERAL_DIRECTORY": f"{ROOT}/.cache/molecule-run"}
    one_lab = ["molecule", "test", "-s", "default", "-s", "running_lab", "-s", "existing"]
    lab = Step("molecule", one_lab, environment=beside)
    parts = Step("molecule-parts", ["molecule", "test", "-s", "l7", "-s", "l4"], environment={**beside, **second})
    everything: list[Lanes] = [
        {"lab": [build, machine("write")]},
        {"lab": [lab], "static": [*static(), sanity, unit, integration, parts, on_kind]},
        {"lab": [machine("compare")]},
    ]
    if list(chosen) == ["test"]:
        return everything
    if list(chosen) == ["check"]:
        return [{"static": static(), "unit": [unit]}]
    known = [step.name for lanes in everything for steps in lanes.values() for step in steps]
    if wrong := [name for name in chosen if name not in known]:
        raise ValueError(f"no step {wrong[0]}: name check, test, or steps out of {', '.join(known)}")
    return [
        {lane: [step for step in steps if step.name in chosen] for lane, steps in lanes.items()} for lanes in everything
    ]


class Run:
    """Steps under way."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self._running: dict[str, tuple[float, subprocess.Popen[bytes]]] = {}
        self._is_ended = False

    def lanes(self, lanes: Lanes) -> None:
        """Run lanes to their end, and say meanwhile how far they are."""
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(done,), daemon=True)
        ticker.start()
        with ThreadPoolExecutor(len(lanes)) as pool:
            for lane in [pool.submit(self._lane, *item) for item in lanes.items()]:
                lane.result()
        done.set()
        ticker.join()

    def end(self, number: int, _frame: object) -> None:
        """Pass a signal on to what runs; nothing more is begun."""
        self._is_ended = True
        # What comes from the terminal all of them have got already.
        for _began, process in list(self._running.values()) if number == signal.SIGTERM else ():
            process.send_signal(number)

    @property
    def failed(self) -> set[str]:
        """Names of the steps that have not passed."""
        return {outcome.name for outcome in self.outcomes if outcome.code != 0}

    def _lane(self, lane: str, steps: list[Step]) -> None:
        for step in steps:
            can_run = not self._is_ended and not self.failed & set(step.needs)
            outcome = self._step(lane, step) if can_run else Outcome(step.name, lane, None)
            self.outcomes.append(outcome)
            say(f"{step.name}: {outcome.words}, {duration(outcome.seconds)}")
            if outcome.code:
                say(*last_words(step.name))

    def _step(self, lane: str, step: Step) -> Outcome:
        began = time.monotonic()
        if shutil.which(step.command[0], path=step.environment.get("PATH")) is None:
            log_of(step.name).write_text(f"{step.command[0]} is not installed: run make install")
            return Outcome(step.name, lane, NOT_FOUND)
        with log_of(step.name).open("wb") as log:
            process = subprocess.Popen(
                step.command, cwd=ROOT, env={**os.environ, **step.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self._running[step.name] = began, process
            _pid, status, usage = os.wait4(process.pid, 0)
            code = process.returncode = os.waitstatus_to_exitcode(status)
        del self._running[step.name]
        return Outcome(step.name, lane, code, time.monotonic() - began, usage.ru_utime + usage.ru_stime)

    def _tick(self, done: threading.Event) -> None:
        while not done.wait(TICK_SECONDS):
            for name, (began, _process) in sorted(self._running.items()):
                say(f"  {name} {duration(time.monotonic() - began)}: {' '.join(lines(name)[-1:])[:100]}")


def log_of(name: str) -> Path:
    return LOGS / f"{name}.log"


def lines(name: str) -> list[str]:
    """What a step has printed, without colours and empty lines."""
    text = CODES.sub("", log_of(name).read_text(encoding="utf-8", errors="replace"))
    return [line for line in text.splitlines() if line.strip()]


def last_words(name: str) -> list[str]:
    """Why a step failed: what stands before molecule's first failed step, else the end of it all."""
    printed = lines(name)
    end = next((number for number, line in enumerate(printed) if "Executed: Failed" in line), len(printed))
    return [*(f"    {line}" for line in printed[max(0, end - SHOWN_LINES) : end]), f"  All of it: {log_of(name)}"]


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(*words: str) -> None:
    print("\n".join(words), flush=True)


def report(outcomes: list[Outcome], seconds: float) -> int:
    """The table, the file for machines, and the closing line; returns the exit code."""
    width = max(len(outcome.name) for outcome in outcomes)
    rows = [
        f"{item.name:{width}}  {item.lane:6}  {item.words:12}  {duration(item.seconds):>12}"
        f"  {duration(item.processor):>12}"
        for item in outcomes
    ]
    heading = f"{'step':{width}}  {'lane':6}  {'':12}  {'took':>12}  {'processor':>12}"
    say("", heading, *rows, f"{'all':{width}}  {'':6}  {'':12}  {duration(seconds):>12}")
    found = [asdict(item) for item in outcomes]
    (LOGS / "results.json").write_text(json.dumps({"seconds": seconds, "steps": found}, indent=1))
    failed = sum(item.code != 0 for item in outcomes)
    say(f"{len(outcomes) - failed} passed, {failed} failed")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", nargs="+", help="check, test, or names of steps")
    try:
        chosen = stages(parser.parse_args().step)
    except ValueError as error:
        parser.error(str(error))
    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    run = Run()
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, run.end)
    began = time.monotonic()
    for number, lanes in enumerate(chosen):
        run.lanes(lanes)
        # Without what the first stage makes the others prove nothing.
        if number == 0 and run.failed and len(chosen) > 1:
            break
    return report(run.outcomes, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())

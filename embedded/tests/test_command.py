"""The command: one JSON object in, one out, and a reason with a way out where something must be mended."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded import __main__ as command
from ambient_embedded import cache, contract, lab, launcher, preflight
from ambient_embedded.cache import Part, Report
from ambient_embedded.parts import Bill

EMBEDDED = Path(command.__file__).parents[1]
Answer = tuple[int, dict[str, Any]]
Ask = Callable[[object], Answer]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Send a request (an object, or text as it is); returns exit status and answer."""

    def run(request: object) -> Answer:
        text = request if isinstance(request, str) else json.dumps(request)
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        status = command.main()
        return status, json.loads(capsys.readouterr().out)

    return run


def request(folder: Path, state: str, **rest: object) -> dict[str, object]:
    folders = {"state_dir": str(folder / "state"), "cache_dir": str(folder / "cache"), "lab_dir": str(folder / "lab")}
    return {
        **folders,
        "state": state,
        "name": "unit",
        "check": False,
        "forwards": [],
        "workers": 1,
        "keep_build_files": False,
        "timeout": 180,
        **rest,
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a JSON object: "),
        ("{", "must be a JSON object: "),
        ("[]", "must be a JSON object"),
        ("null", "must be a JSON object"),
        ("{}", "lacks cache_dir, lab_dir, name, state_dir"),
        ('{"stat": "absent"}', "has stat: it takes state, check, name, "),
        ('{"state": "gone"}', ": state must be one of built, clean, present, absent, not 'gone'"),
        ('{"state": ["present"]}', ": state must be one of built, clean, present, absent, not ['present']"),
        ('{"state_dir": 1}', ": state_dir must be of the type path, not 1"),
        ('{"workers": true}', ": workers must be of the type int, not True"),
        ('{"forwards": [{"host": "127.0.0.1", "port": 1}]}', ": forwards lacks node_port"),
        ('{"forwards": [{"host": "127.0.0.1", "port": "1"}]}', ": forwards: port must be of the type int, not '1'"),
    ],
)
def test_what_is_no_request_is_refused(ask: Ask, text: str, words: str) -> None:
    status, answer = ask(text)
    assert (status, answer["failed"]) == (1, True)
    assert answer["msg"].startswith("The request")
    assert words in answer["msg"]


def test_what_is_not_given_has_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/srv/me")
    told = contract.request(json.dumps({"state": "absent", "name": "unit", "state_dir": "~/state"}))
    assert (told["state_dir"], told["lab_dir"]) == ("/srv/me/state", None)
    assert (told["check"], told["forwards"], told["workers"], told["timeout"]) == (False, [], 1, 180)


def test_messages_call_an_option_what_its_caller_does() -> None:
    told = "set <name>, <port> or <state_dir>, or <absent>; <none>"
    asked = json.dumps({"names": {"name": "cluster_name", "absent": "make down"}})
    assert contract.named(told, asked) == "set cluster_name, port or state_dir, or make down; <none>"
    for broken in ("", "[]", '{"names": 1}'):
        assert contract.named(told, broken) == "set name, port or state_dir, or state=absent; <none>"


@pytest.mark.parametrize(
    ("state", "fields"),
    [("present", "cache_dir, lab_dir, name"), ("absent", "name"), ("clean", "cache_dir"), ("built", "cache_dir")],
)
def test_missing_fields_are_named(ask: Ask, tmp_path: Path, state: str, fields: str) -> None:
    status, answer = ask({"state": state, "state_dir": str(tmp_path), "check": True, "cache_dir": None})
    assert (status, answer) == (1, {"failed": True, "msg": f"The request lacks {fields}"})


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "Lab", "-a", "a-", "a b", "a" * 41])
@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_name_that_is_no_label_touches_nothing(ask: Ask, tmp_path: Path, name: str, state: str) -> None:
    (tmp_path / "state/other").mkdir(parents=True)
    status, answer = ask(request(tmp_path, state, name=name))
    assert (status, answer["failed"]) == (1, True)
    assert "set name" in answer["msg"]
    assert (tmp_path / "state/other").is_dir()


@pytest.mark.parametrize("state", ["present", "built", "absent"])
def test_who_is_not_root_is_told_so(ask: Ask, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    status, answer = ask(request(tmp_path, state))
    assert (status, answer["failed"]) == (1, True)
    assert "not root" in answer["msg"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("state", ["absent", "clean"])
def test_what_is_not_there_is_removed_without_a_change(ask: Ask, tmp_path: Path, state: str) -> None:
    assert ask(request(tmp_path, state)) == (0, {"changed": False})
    assert list(tmp_path.iterdir()) == []


def test_check_mode_installs_nothing(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "check_basics", lambda: None)
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    monkeypatch.setattr(preflight, "check_owners", lambda *_: None)
    monkeypatch.setattr(preflight, "missing_tools", lambda: ["mmdebstrap"])
    monkeypatch.setattr(command, "run", lambda *_, **__: pytest.fail("a program was run"))
    for part in Bill(tmp_path / "cache").parts():
        part.folder(tmp_path / "cache").mkdir(parents=True)
    assert ask(request(tmp_path, "present", check=True)) == (0, {"changed": True})


@pytest.mark.root
@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), subprocess.CalledProcessError(1, ["ip", "link"])]
)
def test_what_the_machine_refuses_is_one_line(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(lab, "absent", fail)
    assert ask(request(tmp_path, "absent")) == (1, {"failed": True, "msg": str(error)})


def lab_on(folder: Path) -> None:
    """State of a lab whose launcher is this process."""
    busy = folder / "state/busy"
    busy.mkdir(parents=True)
    node = {"enter": [f"{folder}/cache/node-image-0/tree"], "cgroup": "/ambient-lab/busy/control-plane"}
    forwards = [["127.0.0.1", 1, "10.87.200.2", 6443]]
    settings = {"address": "10.87.200.1/24", "forwards": forwards, "nodes": [node]}
    (busy / "launcher.json").write_text(json.dumps(settings))
    (busy / "owner").write_text(str(folder / "lab"))
    (busy / "launcher.pid").write_text(f"{os.getpid()} {launcher.start_time(os.getpid())}")


@pytest.mark.root
@pytest.mark.parametrize("check", [True, False])
def test_a_running_lab_is_not_stopped_for_a_port_that_is_taken(ask: Ask, tmp_path: Path, check: bool) -> None:
    lab_on(tmp_path)
    running = subprocess.Popen(["sleep", "1000"])
    try:
        (tmp_path / "state/busy/launcher.pid").write_text(f"{running.pid} {launcher.start_time(running.pid)}")
        for part in Bill(tmp_path / "cache").parts():
            part.folder(tmp_path / "cache").mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            forward = {"host": "127.0.0.1", "port": taken.getsockname()[1], "node_port": 30080}
            _, answer = ask(request(tmp_path, "present", name="busy", forwards=[forward], check=check))
        assert f"port 127.0.0.1:{forward['port']} is taken" in answer["msg"]
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_lab_of_another_checkout_stays_as_it_is(
    ask: Ask, tmp_path: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check_basics", lambda: None)
    monkeypatch.setattr(preflight, "check_owners", lambda *_: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "state/unit").mkdir(parents=True)
    (tmp_path / "state/unit/owner").write_text(str(tmp_path / "theirs"))
    status, answer = ask(request(tmp_path, state))
    assert (status, answer["failed"]) == (1, True)
    assert f"belongs to {tmp_path}/theirs" in answer["msg"]


def test_the_time_that_is_given_reaches_the_start_of_the_nodes(tmp_path: Path) -> None:
    assert command._settings(request(tmp_path, "present", timeout=1200), Bill(tmp_path / "cache")).timeout == 1200


@pytest.mark.parametrize("name", ["cache", "link", "cache/../cache"])
def test_the_cache_of_a_running_lab_is_not_emptied(ask: Ask, tmp_path: Path, name: str) -> None:
    """By whatever name; what json.dumps writes of this folder's is not what it is called."""
    tmp_path = tmp_path / "büro"
    lab_on(tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "link").symlink_to("cache")
    status, answer = ask(request(tmp_path, "clean", cache_dir=str(tmp_path / name)))
    assert (status, answer["failed"]) == (1, True)
    assert "The lab busy runs on what is in" in answer["msg"]
    assert "(state=absent)" in answer["msg"]
    assert (tmp_path / "cache").is_dir()


def test_the_cache_of_a_lab_of_another_state_folder_is_not_emptied(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab_on(tmp_path)
    (tmp_path / "cache").mkdir()
    busy, procs = tmp_path / "state/busy", tmp_path / "cgroup/ambient-lab/busy-0/launcher/cgroup.procs"
    monkeypatch.setattr(lab, "cgroup_hierarchies", lambda: [tmp_path / "cgroup"])
    script = "print(flush=True); input()"
    (busy / "runtime").mkdir()
    (busy / "runtime/launcher.py").write_text(script)
    command_line = [sys.executable, "-I", str(busy / "runtime/launcher.py"), str(busy)]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        procs.parent.mkdir(parents=True)
        procs.write_text(f"{os.getpid()}\n{process.pid}\n")
        _, answer = ask(request(tmp_path, "clean", state_dir=str(tmp_path / "elsewhere")))
        process.kill()
    assert "The lab busy runs on what is in" in answer["msg"]


def test_emptying_the_cache_says_so_in_check_mode_and_does_it_once(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "cache/programs-0123456789ab").mkdir(parents=True)
    (tmp_path / "cache/work").mkdir()
    (tmp_path / "cache/.lock").touch()
    assert ask(request(tmp_path, "clean", check=True)) == (0, {"changed": True})
    assert (tmp_path / "cache/programs-0123456789ab").is_dir()
    assert [ask(request(tmp_path, "clean"))[1]["changed"] for _ in range(2)] == [True, False]
    assert list(tmp_path.iterdir()) == []


def test_what_killed_builds_have_left_is_a_change_too(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "cache/.programs-0123456789ab.draft").mkdir(parents=True)
    assert [ask(request(tmp_path, "clean"))[1]["changed"] for _ in range(2)] == [True, False]
    assert list(tmp_path.iterdir()) == []


def test_another_cache_whose_name_begins_alike_is_emptied(ask: Ask, tmp_path: Path) -> None:
    lab_on(tmp_path)
    (tmp_path / "cac/programs-0123456789ab").mkdir(parents=True)
    assert ask(request(tmp_path, "clean", cache_dir=str(tmp_path / "cac"))) == (0, {"changed": True})


def test_what_a_link_in_the_cache_leads_to_stays(ask: Ask, tmp_path: Path) -> None:
    """A part on another disk, or a lock that somebody else has laid there."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "other").mkdir()
    for name in ("programs-0123456789ab", ".images-0123456789ab.draft", "envoy-0123456789ab", ".lock"):
        (tmp_path / "other" / name).write_text("theirs")
        (tmp_path / "cache" / name).symlink_to(tmp_path / "other" / name)
    (tmp_path / "cache/envoy-0123456789ab").unlink()
    (tmp_path / "cache/envoy-0123456789ab").symlink_to(tmp_path / "other")
    assert ask(request(tmp_path, "clean")) == (0, {"changed": True})
    assert {file.read_text() for file in (tmp_path / "other").iterdir()} == {"theirs"}
    assert not (tmp_path / "cache").exists()


def test_emptying_the_cache_leaves_what_is_not_its_own(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "cache/programs-0123456789ab").mkdir(parents=True)
    cache.claim(tmp_path / "cache")
    for name in ("work/thesis", "work/npm", "backup-202401011200", ".notes.draft"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    assert ask(request(tmp_path, "clean")) == (0, {"changed": True})
    left = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert left == [".notes.draft", cache.TAG, "backup-202401011200", "work"]
    assert [path.name for path in (tmp_path / "cache/work").iterdir()] == ["thesis"]
    assert ask(request(tmp_path, "clean")) == (0, {"changed": False})


@pytest.mark.root
@pytest.mark.parametrize("state", ["present", "built", "clean"])
@pytest.mark.parametrize("foreign", ["work/thesis", "backup-202401011200/letters", "work/go-mod"])
def test_a_folder_that_is_no_cache_is_refused_as_it_is(
    ask: Ask, tmp_path: Path, state: str, foreign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is one whose ``work`` has nothing but downloads in it: of somebody who builds Go, and never held our lock."""
    monkeypatch.setattr(Bill, "parts", lambda _: [])
    monkeypatch.setattr(lab, "present", lambda *_, **__: pytest.fail("a lab was started"))
    (tmp_path / "cache" / foreign).mkdir(parents=True)
    status, answer = ask(request(tmp_path, state))
    assert (status, answer["failed"]) == (1, True)
    assert f"set cache_dir to a folder of its own, {tmp_path}/cache/ambient-lab" in answer["msg"]
    assert [str(path.relative_to(tmp_path / "cache")) for path in (tmp_path / "cache").glob("*/*")] == [foreign]
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.root
def test_a_cache_of_an_earlier_version_is_taken_over(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no tag, and its downloads lie in ``work``."""
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    monkeypatch.setattr(preflight, "missing_tools", list)
    bill, made = Bill(tmp_path / "cache"), [Part("envoy", "envoy", lambda target, report: None)]
    monkeypatch.setattr(Bill, "parts", lambda _: made)
    (tmp_path / "cache/work/go-mod").mkdir(parents=True)
    (tmp_path / "cache/work/kept").touch()
    (tmp_path / "cache/programs-0123456789ab").mkdir()
    (tmp_path / "cache/.lock").touch()
    asked = request(tmp_path, "built", keep_build_files=True)
    assert [ask(asked)[1] for _ in range(2)] == [{"changed": True}, {"changed": False}]
    assert (bill.work / "go-mod").is_dir()
    assert (tmp_path / "cache" / cache.TAG).is_file()
    assert ask(request(tmp_path, "clean")) == (0, {"changed": True})
    assert not (tmp_path / "cache").exists()


@pytest.mark.root
@pytest.mark.parametrize("mask", [0o077, 0])
def test_what_is_built_has_its_modes_whatever_the_shells_mask(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mask: int
) -> None:
    """Containers have users that must read it, and nobody else may write it."""
    monkeypatch.setattr(preflight, "check", lambda *_, **__: None)
    monkeypatch.setattr(preflight, "missing_tools", list)
    part = Part("envoy", "envoy", lambda target, report: (target / "file").touch())
    monkeypatch.setattr(Bill, "parts", lambda _: [part])
    folder = part.folder(tmp_path / "cache")
    before = os.umask(mask)
    try:
        assert ask(request(tmp_path, "built")) == (0, {"changed": True})
    finally:
        os.umask(before)
    modes = [oct(path.stat().st_mode & 0o777) for path in (tmp_path / "cache", folder, folder / "file")]
    assert modes == ["0o755", "0o755", "0o644"]


def test_what_is_built_is_known_by_its_name(tmp_path: Path) -> None:
    folders = [part.folder(tmp_path).name for part in Bill(tmp_path).parts()]
    assert [name for name in folders if not cache.PART.fullmatch(name)] == []


def test_emptying_the_cache_half_way_leaves_no_part_half(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(target: Path, report: Report) -> None:
        (target / "content").touch()

    parts = [Part(name, name, make) for name in ("one", "two")]
    (tmp_path / "cache").mkdir()
    cache.build(tmp_path / "cache", parts, lambda _: None)

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        for file in path.rglob("content") if path.exists() else ():
            file.unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ask(request(tmp_path, "clean"))
    there = [part.folder(tmp_path / "cache") for part in parts if part.folder(tmp_path / "cache").is_dir()]
    assert [folder.name for folder in there if not (folder / "content").exists()] == []


def test_run_as_a_program_only_the_answer_is_on_standard_output(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ambient_embedded"],
        input=json.dumps(request(tmp_path, "clean")),
        env={**os.environ, "PYTHONPATH": str(EMBEDDED)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, {"changed": False}, "")

# Which provider a lab gets: by its own traces, by what is asked for, by what the machine has.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import pathlib
import shutil
import signal
import sys
import threading
import time
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.programs import (
    CANNOT_RUN,
    NOT_FOUND,
    TIMED_OUT,
    Answer,
    Programs,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.signals import ended_politely
from ansible_collections.ambient.lab.plugins.module_utils._kind import cluster
from ansible_collections.ambient.lab.plugins.module_utils._kind.engine import CHOICE, answering, engine_of
from ansible_collections.ambient.lab.plugins.module_utils._lab.cluster_provider import (
    SPEC,
    Machine,
    choose,
    own_ports,
    own_provider,
    ports,
)
from ansible_collections.ambient.lab.plugins.modules import cluster_provider, kind_cluster

DOWN = Answer(
    1, "{}", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"
)
UP = Answer(0, "{}", "")
HELM = {"helm": Answer(0, "v3.22+g1", ""), "kubectl": UP, "kind": UP}


class Scripted:
    """Programs that answer by name, whatever they are asked; one that is not named is not there."""

    def __init__(self, **programs: Answer) -> None:
        self.programs = programs
        self.calls: list[tuple[str, ...]] = []

    def __call__(self, *command: str, env: t.Mapping[str, str] | None = None, timeout: float | None = None) -> Answer:
        self.calls.append(command)
        return self.programs.get(command[0], Answer(NOT_FOUND, "", "no such file"))


def machine(**programs: Answer) -> Machine:
    """Linux, as root, with these programs."""
    return Machine(Scripted(**programs), {}, "Linux", True)


def mac(**programs: Answer) -> Machine:
    """A laptop that is not Linux, as a user."""
    return machine(**programs)._replace(system="Darwin", root=False)


def chosen(engine: str, **programs: Answer) -> Machine:
    """A machine whose user has chosen an engine."""
    return machine(**programs)._replace(environ={CHOICE: engine})


@pytest.fixture
def options(tmp_path: pathlib.Path) -> dict[str, t.Any]:
    programs = {name: name for name in ("kind", "helm", "kubectl")}
    folders = {"lab_dir": str(tmp_path / "lab"), "state_dir": str(tmp_path / "state")}
    return {"provider": "auto", "state": "present", "name": "lab", "names": {}, **folders, **programs}


def test_a_lab_keeps_the_ports_that_it_has(options: dict[str, t.Any]) -> None:
    """Its state tells before its folder does, which is written when all of it is there."""
    assert own_ports(options) == ("", {})
    lab, state = pathlib.Path(options["lab_dir"]), pathlib.Path(options["state_dir"], "lab")
    lab.mkdir()
    (lab / "lab.json").write_text(json.dumps({"node_ports": {"30080": "http://127.0.0.1:18081"}}))
    assert own_ports(options) == ("127.0.0.1", {"30080": 18081})
    state.mkdir(parents=True)
    (state / "launcher.json").write_text("{")
    assert own_ports(options) == ("127.0.0.1", {"30080": 18081})
    forwards = [["127.0.0.1", 16443, "10.87.1.2", 6443], ["::1", 18082, "10.87.1.2", 30080]]
    (state / "launcher.json").write_text(json.dumps({"forwards": forwards}))
    assert own_ports(options) == ("::1", {"30080": 18082})
    # Another checkout's lab of the same name does not count.
    (lab / "lab.json").write_text(json.dumps({"provider": "kind", "node_ports": {"30080": "http://127.0.0.1:18081"}}))
    assert own_ports(options) == ("127.0.0.1", {"30080": 18081})


@pytest.mark.parametrize(
    ("asked", "has", "urls"),
    [
        ({}, "", {"30080": "http://127.0.0.1:18080", "32766": "http://127.0.0.1:28080"}),
        ({}, "http://[::1]:18081", {"30080": "http://[::1]:18081"}),
        ({"node_ports": {}}, "http://127.0.0.1:18081", {}),
        ({"listen_address": "10.0.0.1"}, "http://127.0.0.1:18081", {"30080": "http://10.0.0.1:18081"}),
        ({"node_ports": {30080: 18082}}, "http://127.0.0.1:18081", {"30080": "http://127.0.0.1:18082"}),
    ],
)
def test_a_lab_keeps_its_ports_unless_others_are_asked_for(
    options: dict[str, t.Any], asked: dict[str, t.Any], has: str, urls: dict[str, str]
) -> None:
    if has:
        folder = pathlib.Path(options["lab_dir"])
        folder.mkdir()
        (folder / "lab.json").write_text(json.dumps({"provider": "kind", "node_ports": {"30080": has}}))
    assert ports({"node_ports": None, "listen_address": "", **options, **asked})["node_urls"] == urls


def leave(options: dict[str, t.Any], provider: str) -> None:
    folder = pathlib.Path(options["lab_dir"])
    folder.mkdir()
    (folder / "lab.json").write_text(json.dumps({"provider": provider}))


@pytest.mark.parametrize(
    ("here", "provider"),
    [
        (machine(docker=UP, **HELM), "kind"),
        (machine(docker=DOWN, podman=UP, **HELM), "kind"),
        (mac(docker=UP, **HELM), "kind"),
        # A docker program without an engine behind it is no engine.
        (machine(docker=DOWN, **HELM), "embedded"),
        (machine(docker=UP, helm=UP, kubectl=UP), "embedded"),
        (machine(), "embedded"),
    ],
)
def test_auto_takes_kind_where_an_engine_answers_else_the_embedded_cluster(
    options: dict[str, t.Any], here: Machine, provider: str
) -> None:
    assert choose(options, here) == provider


def test_where_nothing_can_be_one_line_lists_what_is_missing(options: dict[str, t.Any]) -> None:
    with pytest.raises(LabError) as raised:
        choose(options, mac(docker=DOWN, kubectl=UP, helm=HELM["helm"]))
    message = raised.value.message
    for text in ("=kind: no container engine answers (docker: Cannot connect", "the program kind is missing",
                 "=embedded: Linux (this is Darwin); root", "provider=existing"):  # fmt: skip
        assert text in message
    assert "helm" not in message
    # Each on a line of its own.
    assert message.count("\n  provider=") == 3


@pytest.mark.parametrize("own", ["kind", "embedded", "existing"])
def test_auto_keeps_the_provider_that_the_lab_was_made_with(options: dict[str, t.Any], own: str) -> None:
    leave(options, own)
    assert choose(options, machine(docker=UP, **HELM)) == own
    assert choose({**options, "state": "absent"}, mac()) == own


@pytest.mark.parametrize("state", ["present", "absent"])
def test_another_provider_than_the_labs_own_is_an_error_that_says_how_to_remove_it(
    options: dict[str, t.Any], state: str
) -> None:
    leave(options, "kind")
    assert choose({**options, "provider": "kind", "state": state}, machine(docker=UP, **HELM)) == "kind"
    asked = {**options, "provider": "embedded", "state": state}
    with pytest.raises(LabError, match=r"made with provider=kind, .* remove it first, or take another name$"):
        choose(asked, machine(docker=UP, **HELM))
    asked["names"] = {"provider": "cluster_provider", "name": "cluster_name", "absent": "make down"}
    with pytest.raises(LabError, match=r"cluster_provider=kind, .* first \(make down\), or take another cluster_name$"):
        choose(asked, machine(docker=UP, **HELM))


def test_a_lab_that_was_not_finished_leaves_traces(options: dict[str, t.Any]) -> None:
    assert own_provider(options) == ""
    (pathlib.Path(options["state_dir"]) / "lab").mkdir(parents=True)
    assert own_provider(options) == "embedded"
    lab_dir = pathlib.Path(options["lab_dir"])
    lab_dir.mkdir()
    (lab_dir / "kind.yaml").touch()
    (lab_dir / "lab.json").write_text("{")
    assert own_provider(options) == "kind"


@pytest.mark.parametrize("state", ["present", "absent"])
def test_a_folder_that_is_no_labs_is_refused(options: dict[str, t.Any], state: str) -> None:
    """Else clean-up would remove it with all that is in it, a kubeconfig of the user's own."""
    folder = pathlib.Path(options["lab_dir"])
    asked = {**options, "state": state, "provider": "embedded"}
    for name in ("kube-cache", "kubeconfig"):
        assert choose(asked, machine()) == "embedded"
        (folder / name).mkdir(parents=True)
    with pytest.raises(LabError, match=r"is not a lab's folder, kubeconfig is in it .*: set lab_dir to"):
        choose(asked, machine())
    begun = pathlib.Path(options["state_dir"], options["name"])
    begun.mkdir(parents=True)
    (begun / "owner").write_text(f"{folder}/../{folder.name}\n")
    assert choose(asked, machine()) == "embedded"
    shutil.rmtree(begun)
    (folder / "lab.json").touch()
    assert choose(asked, machine()) == "embedded"


def test_nothing_is_to_be_removed_where_nothing_was_made(options: dict[str, t.Any]) -> None:
    assert choose({**options, "state": "absent"}, mac()) == ""
    assert choose({**options, "state": "absent", "provider": "kind"}, machine()) == "kind"


@pytest.mark.parametrize(
    ("provider", "here", "said"),
    [
        ("existing", machine(), "the program helm is missing, install helm 3"),
        ("existing", machine(helm=Answer(0, "v4.0.1+g1", "")), "helm is not helm 3 (v4.0.1+g1)"),
        ("kind", machine(docker=UP, kind=UP, kubectl=UP), "the program helm is missing"),
        ("kind", machine(docker=UP, kind=UP, helm=HELM["helm"]), "the program kubectl is missing, install kubectl"),
        ("kind", machine(**HELM), "none of docker, nerdctl, podman is installed"),
        ("kind", chosen("podman", docker=UP, **HELM), "podman is not installed"),
        ("kind", chosen("dockr", **HELM), "KIND_EXPERIMENTAL_PROVIDER=dockr is no engine that kind knows"),
        (
            "kind",
            machine(docker=Answer(1, "", "permission denied while trying to connect to the Docker daemon"), **HELM),
            "refuses this user",
        ),
    ],
)
def test_what_an_explicit_provider_lacks_is_said(
    options: dict[str, t.Any], provider: str, here: Machine, said: str
) -> None:
    with pytest.raises(LabError) as raised:
        choose({**options, "provider": provider}, here)
    assert said in raised.value.message


def test_the_embedded_provider_names_its_own_needs(options: dict[str, t.Any]) -> None:
    assert choose({**options, "provider": "embedded"}, mac()) == "embedded"


def test_the_engine_is_the_one_that_holds_the_cluster() -> None:
    """Docker that came up after a cluster was made with Podman does not hide it."""
    run = Scripted(docker=Answer(0, "", ""), podman=Answer(0, "lab-control-plane\n", ""))
    assert engine_of(run, {}, "lab").env == {CHOICE: "podman"}
    assert engine_of(Scripted(docker=UP._replace(out=""), podman=UP._replace(out="")), {}, "lab").env == {}
    with pytest.raises(LabError, match="No container engine answers"):
        engine_of(Scripted(docker=DOWN), {}, "lab")


def test_a_chosen_engine_is_the_only_one_asked() -> None:
    run = Scripted(docker=UP, podman=UP)
    engines, _problem = answering(run, {CHOICE: "podman"})
    assert [engine.name for engine in engines] == ["podman"]
    assert {command[0] for command in run.calls} == {"podman"}


def test_programs_are_run_shown_and_ended() -> None:
    """The edge itself: exit status, both outputs, progress, a program that is not there, one that hangs."""
    shown: list[str] = []
    run = Programs(lambda line: shown.extend(filter(None, [cluster.progress(line)])))
    script = "import sys, os; print(os.environ['X']); print(' • Step ...\\nwords', file=sys.stderr); sys.exit(3)"
    assert run(sys.executable, "-c", script, env={"X": "1"}) == Answer(3, "1\n", " • Step ...\nwords\n")
    assert shown == ["Step"]
    assert run("no-such-program-here").code == NOT_FOUND
    hanging = run(sys.executable, "-c", "import signal; signal.pause()", timeout=0.5)
    assert hanging.code == TIMED_OUT
    assert "did not answer" in hanging.err


def test_a_program_of_another_machine_cannot_be_run(tmp_path: pathlib.Path) -> None:
    program = tmp_path / "kind"
    program.write_bytes(b"\x7fELF of elsewhere")
    assert Programs(print)(str(program)) == Answer(CANNOT_RUN, "", f"{program}: Permission denied")
    program.chmod(0o755)
    assert Programs(print)(str(program)) == Answer(CANNOT_RUN, "", f"{program}: Exec format error")


def test_a_play_that_is_ended_takes_its_command_along(tmp_path: pathlib.Path) -> None:
    started = tmp_path / "pid"
    script = f"import os, signal; open({str(started)!r}, 'w').write(str(os.getpid())); signal.pause()"

    def end() -> None:
        deadline = time.monotonic() + 20
        while not (started.exists() and started.read_text()) and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    ending = threading.Thread(target=end)
    ending.start()
    with ended_politely(), pytest.raises(SystemExit):
        Programs(print)(sys.executable, "-c", script)
    ending.join()
    assert not pathlib.Path("/proc", started.read_text()).exists()


def test_what_a_failed_program_has_begun_is_waited_for(tmp_path: pathlib.Path) -> None:
    """kind ends with the first node that fails, while the engine still makes the second."""
    late = f"import time; time.sleep(0.4); open({str(tmp_path / 'late')!r}, 'w')"
    begin = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.DEVNULL, "
    script = begin + "stderr=subprocess.DEVNULL); sys.exit(1)"
    assert Programs(print)(sys.executable, "-c", script, late).code == 1
    assert (tmp_path / "late").exists()


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (" • Preparing nodes 📦 📦   ...\n", "Preparing nodes"),
        (" ✓ Preparing nodes 📦 📦 \n", None),
        (" ✗ Starting control-plane 🕹️\n", "failed: Starting control-plane"),
        ("Have a nice day! 👋\n", None),
    ],
)
def test_progress_is_the_steps_that_begin(line: str, shown: str | None) -> None:
    assert cluster.progress(line) == shown


@pytest.mark.parametrize(
    ("documentation", "spec"),
    [(cluster_provider.DOCUMENTATION, SPEC), (kind_cluster.DOCUMENTATION, cluster.SPEC)],
)
def test_documented_options_are_the_accepted_ones(documentation: str, spec: dict[str, dict[str, t.Any]]) -> None:
    options = yaml.safe_load(documentation)["options"]
    assert all(option.pop("description") for option in options.values())
    assert options == spec

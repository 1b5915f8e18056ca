"""What holds for the project as a whole: uniform roles, the story of site.yml, exact pins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import ROLES, ROOT, load

TASKS = ("tasks/main.yml", "tasks/verify.yml", "tasks/cleanup.yml")
SKELETON = ("defaults/main.yml", "meta/argument_specs.yml", *TASKS)
FORBIDDEN = re.compile(r"\b(set_fact|ignore_errors|noqa|ansible\.builtin\.(shell|command|pause))\b")
# The only places where programs are run by name: molecule runs tests, looks at the machine's state, and asks an engine.
RUNS_PROGRAMS = {
    ROOT / "molecule/tasks/node_image.yml": 2,
    ROOT / "molecule/tasks/run_tests.yml": 1,
    ROOT / "molecule/tasks/state.yml": 1,
}
READ_ONLY = {
    "ambient.lab.curl_outcomes",
    "ambient.lab.kiali_graph",
    "ambient.lab.ready",
    "ansible.builtin.assert",
    "ansible.builtin.uri",
}
IMPORT = "ansible.builtin.import_role"
PIN = re.compile(r"^[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[^ ;]+(; .+)?$")


def playbooks() -> list[Path]:
    """Return every YAML file that holds tasks or plays."""
    found = [ROOT / "site.yml", *(ROOT / "playbooks").glob("*.yml"), *(ROOT / "molecule").rglob("*.yml")]
    return [*found, *(ROOT / "roles").glob("*/tasks/*.yml")]


@pytest.mark.parametrize("role", ROLES)
def test_roles_have_one_skeleton(role: str) -> None:
    """Whoever knows one role finds the way in every other."""
    missing = [name for name in SKELETON if not (ROOT / "roles" / role / name).is_file()]
    assert not missing


@pytest.mark.parametrize("path", playbooks(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_state_machines_no_shell_no_swallowed_errors(path: Path) -> None:
    """The style rules that ansible-lint does not know."""
    found = [words[0] for words in FORBIDDEN.findall(path.read_text(encoding="utf-8"))]
    assert found == ["ansible.builtin.command"] * RUNS_PROGRAMS.get(path, 0)


@pytest.mark.parametrize("role", ["istio_ambient", "kiali", "sample_app", "l4_authz", "l7_waypoint"])
def test_verifying_changes_nothing(role: str) -> None:
    """verify.yml is made of modules that only read."""
    for task in load(ROOT / "roles" / role / "tasks" / "verify.yml"):
        assert READ_ONLY & set(task), task["name"]


def test_site_is_one_play_of_six_roles_with_a_tag_each() -> None:
    """The order of the story, and the tags it can be entered by."""
    (play,) = load(ROOT / "site.yml")
    assert [role["role"] for role in play["roles"]] == list(ROLES)
    tags = {role["role"]: role["tags"] for role in play["roles"]}
    assert all(name in own for name, own in tags.items())
    assert "l4" in tags["l4_authz"]
    assert "l7" in tags["l7_waypoint"]


@pytest.mark.parametrize("name", ["verify.yml", "cleanup.yml"])
def test_other_playbooks_take_the_same_tags(name: str) -> None:
    """--tags l7 means the same role in every playbook."""
    (play,) = load(ROOT / "playbooks" / name)
    (site,) = load(ROOT / "site.yml")
    tasks = [inner for task in play["tasks"] for inner in task.get("block", [task])]
    tagged = {task[IMPORT]["name"]: task["tags"] for task in tasks if IMPORT in task}
    assert tagged == {role["role"]: role["tags"] for role in site["roles"]}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_python_requirements_are_exact(name: str) -> None:
    """Two installations a year apart get the same programs."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if line and not line.startswith(("#", "-r ")) and not PIN.match(line)]
    assert not wrong

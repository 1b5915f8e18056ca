"""What holds for the project as a whole: uniform roles, the story of site.yml, molecule's scenarios, exact pins."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from project import OPTIONAL, ROLES, ROOT, SHARED, load, tracked

TASKS = ("tasks/main.yml", "tasks/verify.yml", "tasks/cleanup.yml")
SKELETON = ("defaults/main.yml", "meta/argument_specs.yml", *TASKS)
FORBIDDEN = re.compile(r"\b(set_fact|ignore_errors|noqa|ansible\.builtin\.(shell|command|pause))\b")
# The only places where programs are run by name: molecule runs tests, looks at the machine's state, and asks an engine.
RUNS_PROGRAMS = {
    ROOT / "molecule/tasks/node_image.yml": 2,
    ROOT / "molecule/tasks/run_tests.yml": 1,
    ROOT / "molecule/tasks/state.yml": 1,
}
# The only places where a failure does not end the run; in each the next task reads it.
READS_FAILURES = {
    ROOT / "molecule/tasks/break.yml": 1,
    ROOT / "molecule/tasks/node_image.yml": 2,
    ROOT / "molecule/tasks/run_tests.yml": 1,
    ROOT / "molecule/tasks/state.yml": 1,
    ROOT / "playbooks/claims.yml": 1,
    ROOT / "roles/sample_app/tasks/verify.yml": 1,
}
SWALLOWS = re.compile(r"^ *(failed_when: false|rescue:|ignore_unreachable)", re.MULTILINE)
READ_ONLY = {
    "ambient.lab.curl_outcomes",
    "ambient.lab.link_encryption",
    "ambient.lab.kiali_graph",
    "ambient.lab.ready",
    "ansible.builtin.assert",
    "ansible.builtin.fail",
    "ansible.builtin.uri",
}
# What verify.yml may hand over to: a file that is looked at as well, and what only reads of the shared roles.
READ_ONLY_FILES = (
    "ready.yml",
    {"name": "lab", "rolespec_validate": False},
    {"name": "policy_proof", "tasks_from": "verify"},
)
IMPORT = "ansible.builtin.import_role"
INCLUDE = "ansible.builtin.include_role"
MOLECULE = ROOT / "molecule"
SCENARIOS = sorted(path.parent.name for path in MOLECULE.glob("*/molecule.yml"))
# The files that molecule takes by their names where a scenario names no other.
BY_NAME = {"create", "prepare", "converge", "side_effect", "verify", "cleanup", "destroy"}
FILE = re.compile(r"[\w./{}$-]*\w\.(?:yml|j2)\b")
PIN = re.compile(r"^[A-Za-z0-9_.-]+(\[[a-z,]+\])?==[^ ;]+(; .+)?$")


def playbooks() -> list[Path]:
    """Return every YAML file that holds tasks or plays."""
    found = [ROOT / "site.yml", *(ROOT / "playbooks").glob("*.yml"), *(ROOT / "molecule").rglob("*.yml")]
    return [*found, *(ROOT / "roles").glob("*/tasks/*.yml")]


@pytest.mark.parametrize("role", [*ROLES, *OPTIONAL])
def test_roles_have_one_skeleton(role: str) -> None:
    """Whoever knows one role finds the way in every other."""
    missing = [name for name in SKELETON if not (ROOT / "roles" / role / name).is_file()]
    assert not missing


def test_nobody_uses_the_private_variables_of_a_role() -> None:
    """What a role gives and takes is in its argument_specs: no playbook, inventory or other role names more of it."""
    roles = [*ROLES, *OPTIONAL, *SHARED]
    private = re.compile(rf"\b__({'|'.join(roles)})_\w+")
    wrong = []
    for path in tracked("roles", "playbooks", "inventory", "molecule/*.yml", "site.yml"):
        named = {found[1] for found in private.finditer((ROOT / path).read_text(encoding="utf-8"))}
        owner = path.split("/")[1] if path.startswith("roles/") else ""
        wrong += [(path, name) for name in sorted(named - {owner})]
    assert wrong == []


@pytest.mark.parametrize("path", playbooks(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_state_machines_no_shell_no_swallowed_errors(path: Path) -> None:
    """The style rules that ansible-lint does not know."""
    text = path.read_text(encoding="utf-8")
    found = [words[0] for words in FORBIDDEN.findall(text)]
    assert found == ["ansible.builtin.command"] * RUNS_PROGRAMS.get(path, 0)
    assert len(SWALLOWS.findall(text)) == READS_FAILURES.get(path, 0)


@pytest.mark.parametrize(
    "role", ["istio_ambient", "kiali", "sample_app", "l4_authz", "l7_waypoint", "bypass", "policy_proof"]
)
def test_verifying_changes_nothing(role: str) -> None:
    """verify.yml is made of modules that only read."""
    tasks = ROOT / "roles" / role / "tasks"
    for task in [one for path in (tasks / "verify.yml", tasks / "ready.yml") if path.is_file() for one in load(path)]:
        for inner in [*task.get("block", [task]), *task.get("rescue", [])]:
            handed = inner.get("ansible.builtin.import_tasks") or inner.get(IMPORT) or inner.get(INCLUDE)
            assert READ_ONLY & set(inner) or handed in READ_ONLY_FILES, inner["name"]


@pytest.mark.parametrize("role", ["kiali", "sample_app"])
def test_an_address_of_this_machine_is_asked_past_a_proxy(role: str) -> None:
    """With HTTP_PROXY set, the proxy would look for the lab on its own machine."""
    tasks = load(ROOT / "roles" / role / "tasks" / "verify.yml")
    inner = [one for task in tasks for one in task.get("block", [task])]
    asked = [task["ansible.builtin.uri"] for task in inner if "ansible.builtin.uri" in task]
    assert [item.get("use_proxy") for item in asked] == [False]


def test_site_is_a_play_of_six_roles_with_a_tag_each() -> None:
    """The order of the story, and the tags it can be entered by."""
    play = load(ROOT / "site.yml")[-1]
    assert [role["role"] for role in play["roles"]] == list(ROLES)
    tags = {role["role"]: role["tags"] for role in play["roles"]}
    assert all(name in own for name, own in tags.items())
    assert "l4" in tags["l4_authz"]
    assert "l7" in tags["l7_waypoint"]


@pytest.mark.parametrize("name", ["verify.yml", "cleanup.yml"])
def test_other_playbooks_take_the_same_tags(name: str) -> None:
    """--tags l7 means the same role in every playbook."""
    play, site = load(ROOT / "playbooks" / name)[-1], load(ROOT / "site.yml")[-1]
    tasks = [inner for task in play["tasks"] for inner in task.get("block", [task])]
    tagged = {task[IMPORT]["name"]: task["tags"] for task in tasks if IMPORT in task and task["tags"] != ["always"]}
    assert tagged == {role["role"]: role["tags"] for role in site["roles"]}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_scenario_runs_as_a_user_does(scenario: str) -> None:
    """With the project's ansible.cfg and inventory, and in a lab of its own."""
    ansible = load(MOLECULE / scenario / "molecule.yml")["ansible"]
    assert ansible["env"] == {"ANSIBLE_CONFIG": "${MOLECULE_PROJECT_DIRECTORY}/ansible.cfg"}
    arguments = ansible["executor"]["args"]["ansible_playbook"]
    assert "--inventory=${MOLECULE_PROJECT_DIRECTORY}/inventory/hosts.yml" in arguments
    # What kind gets on top replaces its images.
    variables = next(name.partition("@")[2] for name in arguments if name.startswith("--extra-vars=@"))
    assert "molecule-" in load(_file(scenario, variables))["cluster_name"]


@pytest.mark.parametrize("scenario", ["default", "existing", "kind", "l4", "l7"])
def test_a_scenario_breaks_its_lab_and_mends_it(scenario: str) -> None:
    """What is broken is mended by the next converge, and the claims are proven then."""
    configuration = load(MOLECULE / scenario / "molecule.yml")
    sequence = configuration["scenario"]["test_sequence"]
    start = sequence.index("converge")
    assert sequence[start : start + 5] == ["converge", "idempotence", "side_effect", "converge", "verify"]
    playbooks = {step: _playbook(scenario, step) for step in sequence if step != "idempotence"}
    assert [path for path in playbooks.values() if not path.is_file()] == []
    assert ROOT / "site.yml" in _reached(playbooks["converge"])
    assert MOLECULE / "side_effect.yml" in _reached(playbooks["side_effect"])
    if scenario in ("l4", "l7"):
        (tags,) = [name for name in configuration["ansible"]["executor"]["args"]["ansible_playbook"] if "tags" in name]
        assert tags.endswith(f",{scenario}")
        broken = [task for play in load(playbooks["side_effect"]) for task in play["tasks"] if scenario in task["tags"]]
        assert broken, f"nothing of {scenario} is broken"


def test_every_file_of_molecule_is_used() -> None:
    """By molecule because of its name, by a scenario, or by another file."""
    files = [*MOLECULE.rglob("*.yml"), *MOLECULE.rglob("*.j2")]
    used = {_playbook(scenario, step) for scenario in SCENARIOS for step in BY_NAME}
    used |= {MOLECULE / scenario / "molecule.yml" for scenario in SCENARIOS}
    for path in files:
        content = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#")
        for name in FILE.findall(content):
            places = {_file(path.parent.name, name), (path.parent / name).resolve(), path.parent / "templates" / name}
            # A variable's template is the scenario's of the same name.
            places |= {MOLECULE / path.stem / "templates" / name}
            used |= places - {path}
    unused = [str(path.relative_to(ROOT)) for path in files if path not in used]
    assert not unused


def _playbook(scenario: str, step: str) -> Path:
    """The file that a step of a scenario runs."""
    named: str = load(MOLECULE / scenario / "molecule.yml")["ansible"].get("playbooks", {}).get(step, f"{step}.yml")
    return (MOLECULE / scenario / named).resolve()


def _reached(playbook: Path) -> set[Path]:
    """A playbook and those that it imports."""
    imported = (play.get("ansible.builtin.import_playbook") for play in load(playbook))
    return {playbook, *((playbook.parent / name).resolve() for name in imported if name)}


def _file(scenario: str, name: str) -> Path:
    """A file as molecule.yml names it."""
    folders = {"${MOLECULE_PROJECT_DIRECTORY}": ROOT, "${MOLECULE_SCENARIO_DIRECTORY}": MOLECULE / scenario}
    for variable, folder in folders.items():
        name = name.replace(variable, str(folder))
    return Path(name)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_python_requirements_are_exact(name: str) -> None:
    """Two installations a year apart get the same programs."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if line and not line.startswith(("#", "-r ")) and not PIN.match(line)]
    assert not wrong

# The modules of predictions, run as Ansible runs them: on folders, on revisions of them, and on a cluster's API.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import typing as t

import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import NAMESPACE_PATH, PATHS
from ansible_collections.ambient.lab.plugins.module_utils._reach import states
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_diff import compare
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_lint import lint
from ansible_collections.ambient.lab.plugins.module_utils._reach.policy_reachability import reachability
from ansible_collections.ambient.lab.plugins.module_utils._results.store import read_results
from ansible_collections.ambient.lab.plugins.plugin_utils._report.junit import junit
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import report_of
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import pod, policy, service
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_folder import (
    GATEWAY,
    L4,
    PLAIN,
    SHOP,
    WAYPOINT,
)
from ansible_collections.ambient.lab.tests.unit.plugins.module_utils._mesh.test_load import Api

Patch = pytest.MonkeyPatch
SHOPPING = {"from": {"service_account": "client", "namespace": "shop"}, "to": "http://app.shop/"}


def folder(path: pathlib.Path, *texts: str) -> str:
    """A folder of manifests."""
    path.mkdir(exist_ok=True)
    for number, text in enumerate(texts):
        (path / f"{number}.yaml").write_text(text, encoding="utf-8")
    return str(path)


def options(**given: t.Any) -> dict[str, t.Any]:
    """Options of a module that looks at a state."""
    names = ("manifests", "revision", "kubeconfig", "context", "question", "claims_file", "results_file", "section")
    return {**dict.fromkeys(names), "over_cluster": False, "namespaces": [], **given}


def reached(path: str, **given: t.Any) -> dict[str, t.Any]:
    return reachability(options(manifests=path, **given), False)


def test_a_table_says_who_may_call_whom_and_what_decides(tmp_path: pathlib.Path) -> None:
    found = reached(folder(tmp_path / "a", SHOP, WAYPOINT, L4))
    rows = {(item["to"], item["request"], name): item for item in found["reachability"] for name in item["from"]}
    refused = rows["Service shop/app:80", "POST (any other method)", "shop/client"]
    assert (refused["verdict"], refused["layer"], refused["by"]) == (
        "denied_l7",
        "waypoint",
        "no ALLOW rule of shop/get",
    )
    # The policy of the pods forgets the waypoint.
    assert rows["Service shop/app:80", "GET", "shop/client"]["verdict"] == "denied_upstream"
    direct = rows["pod shop/app:8080", "any request", "shop/client"]
    assert (direct["verdict"], direct["rules"]) == ("allowed", [{"policy": "shop/l4", "rule": 0}])
    assert rows["pod shop/app:8080", "any request", "outside of the mesh"]["verdict"] == "denied_l4"
    assert found["counts"]["allowed"] == 1
    assert any("denied_upstream" in line for line in found["table"])


def test_what_is_predicted_is_written_as_claims_that_hold(tmp_path: pathlib.Path) -> None:
    path, file = folder(tmp_path / "a", SHOP, WAYPOINT), str(tmp_path / "claims.yml")
    assert reached(path, claims_file=file)["changed"]
    assert not reached(path, claims_file=file)["changed"]
    raw = yaml.safe_load(pathlib.Path(file).read_text(encoding="utf-8"))["claims"]
    claims = parse_claims(raw, "default")
    assert [(str(claim.source.service_account), str(claim.request), claim.after.outcome) for claim in claims] == [
        ("app", "GET http://app.shop:80/", "allowed"),
        ("client", "GET http://app.shop:80/", "allowed"),
        ("app", "POST http://app.shop:80/", "denied_l7"),
        ("client", "POST http://app.shop:80/", "denied_l7"),
    ]
    assert str(claims[-1].by) == "shop/get"


def test_the_matrix_is_kept_for_the_report(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "results.json"
    reached(folder(tmp_path / "a", PLAIN), results_file=str(file), section="predicted")
    cells = json.loads(file.read_text(encoding="utf-8"))["predicted"]["matrix"]["cells"]
    assert {(cell["from"], cell["to"], cell["outcome"]) for cell in cells} >= {
        ("shop/client", "Service shop/app:80 any request", "allowed")
    }


@pytest.mark.parametrize(
    ("question", "outcome", "words"),
    [
        (
            SHOPPING,
            "allowed",
            ["Yes, shop/client may call Service shop/app, port 80 with GET", "waypoint shop/wp (in force: sho"],
        ),
        (
            {**SHOPPING, "to": {"url": "http://app.shop/x", "method": "POST"}},
            "denied_l7",
            ["No, shop/client may not call", "waypoint refuses it", "it says method is GET; here it is POST"],
        ),
        ({**SHOPPING, "from": "outside of the mesh"}, "allowed", ["Yes, outside of the mesh may call", "plain text"]),
        ({**SHOPPING, "from": {"service_account": "new", "namespace": "shop"}}, "allowed", ["(no pod has it yet)"]),
        ({**SHOPPING, "to": "http://nobody.shop/"}, "broken", ["there is no Service nobody in namespace shop"]),
    ],
)
def test_one_question_is_answered_in_words(
    tmp_path: pathlib.Path, question: dict[str, t.Any], outcome: str, words: list[str]
) -> None:
    found = reached(folder(tmp_path / "a", SHOP, WAYPOINT), question=question)
    answer = "\n".join(found["answer"])
    assert found["verdict"] == outcome
    assert all(text in answer for text in words), answer


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"question": {**SHOPPING, "to": "app"}}, "Invalid question:\n  claim 1 ('question'): to: 'app' is not a URL"),
        ({"question": {**SHOPPING, "from": {"pod": "none", "namespace": "shop"}}}, "pod shop/none does not exist"),
        ({"revision": "--output=x"}, "that is an option"),
        ({"revision": "no-such"}, "git can't give"),
        ({"manifests": "/no/such"}, "manifests: /no/such is no folder"),
        ({"manifests": None, "revision": "main"}, "revision and over_cluster are about a folder"),
    ],
)
def test_bad_input_gets_one_clear_message(tmp_path: pathlib.Path, given: dict[str, t.Any], words: str) -> None:
    path = folder(tmp_path / "a", SHOP)
    with pytest.raises(LabError) as caught:
        reachability(options(**{"manifests": path, **given}), False)
    assert words in caught.value.message


def revised(path: pathlib.Path, *states: list[str]) -> str:
    """A folder in a git repository, with a revision for each state."""
    repository = path / "repository"
    repository.mkdir()
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run([*git, "init", "-q"], check=True)
    for number, texts in enumerate(states):
        shutil.rmtree(repository / "mesh", ignore_errors=True)
        folder(repository / "mesh", *texts)
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", str(number)], check=True)
    return str(repository / "mesh")


def test_a_revision_of_a_folder_is_read_from_git(tmp_path: pathlib.Path) -> None:
    path = revised(tmp_path, [SHOP, WAYPOINT], [SHOP, WAYPOINT.replace("GET", "PUT")])
    outcomes = {
        revision: reached(path, question=SHOPPING, revision=revision)["verdict"] for revision in ("HEAD~1", None)
    }
    assert outcomes == {"HEAD~1": "allowed", None: "denied_l7"}


def test_a_folder_that_a_revision_does_not_have_is_an_empty_state(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(revised(tmp_path, [SHOP]))
    new = path.parent / "new"
    sides = {side: {"manifests": folder(new, SHOP), "over_cluster": False} for side in SIDES}
    given: dict[str, t.Any] = {"namespaces": [], "allow_new": [], "fail_on": "never", **dict.fromkeys(NONE)}
    found = compare(
        {**given, "old": {**sides["old"], "revision": "HEAD"}, "new": {**sides["new"], "revision": None}}, False
    )
    assert found["counts"]["opened"]
    assert "the folder is not there, so that this state is empty" in found["warnings"][0]


def test_a_link_or_odd_bytes_in_a_revision_are_refused(tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(revised(tmp_path, [SHOP]))
    git = ["git", "-C", str(path), "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for words, is_link in (("1.yaml can't be read as YAML", False), ("1.yaml is a symbolic link", True)):
        if is_link:
            (path / "1.yaml").unlink()
            (path / "1.yaml").symlink_to("0.yaml")
        else:
            (path / "1.yaml").write_bytes(b"a: \xff")
        subprocess.run([*git, "add", "--all"], check=True)
        subprocess.run([*git, "commit", "-q", "-m", "x"], check=True)
        with pytest.raises(LabError, match=words):
            reached(str(path), revision="HEAD")


class Cluster(Api):
    """The API, in the place of a connection to it."""

    def __call__(self, *_args: object) -> Cluster:
        return self


def test_a_cluster_is_asked_and_a_folder_is_laid_over_it(tmp_path: pathlib.Path, monkeypatch: Patch) -> None:
    there = Cluster(pod("client", "shop"), pod("app", "shop", ip="10.0.0.2"), service("app", "shop"))
    monkeypatch.setattr(states, "Kube", there)
    question = {**SHOPPING, "to": "http://app.shop:8080/"}
    assert reachability(options(question=question), False)["verdict"] == "allowed"
    denying = yaml.safe_dump({"apiVersion": "security.istio.io/v1", **policy("p", "shop", action="DENY", rules=[{}])})
    path = folder(tmp_path / "a", denying)
    laid = options(question=question, manifests=path, over_cluster=True)
    assert reachability(laid, False)["verdict"] == "denied_l4"


def test_what_may_not_be_read_is_unknown_and_the_right_is_named(monkeypatch: Patch) -> None:
    lists = {PATHS["AuthorizationPolicy"].format(space) for space in ("", "/namespaces/shop")}
    objects = [pod("client", "shop"), pod("app", "shop", ip="10.0.0.2"), service("app", "shop")]
    monkeypatch.setattr(states, "Kube", Cluster(*objects, refused=lists))
    found = reachability(options(), False)
    assert {item["verdict"] for item in found["reachability"]} == {"unknown"}
    assert all("authorizationpolicies is forbidden" in item["why"] for item in found["reachability"])
    assert any("AuthorizationPolicy objects of shop can't be read" in text for text in found["warnings"])
    with pytest.raises(LabError, match=r"looked at: AuthorizationPolicy .*/authorizationpolicies is forbidden"):
        lint({**options(), "policies": [], "ignore": [], "fail_on": "never"})
    monkeypatch.setattr(states, "Kube", Cluster(*objects, refused={NAMESPACE_PATH}))
    with pytest.raises(LabError, match="or name the namespaces to read"):
        reachability(options(), False)
    gone = {PATHS[kind].format(space) for kind in ("Service", "Pod") for space in ("", "/namespaces/shop")}
    monkeypatch.setattr(states, "Kube", Cluster(*objects, refused=gone))
    with pytest.raises(LabError, match=r"there is no destination in namespaces shop: Service .* is forbidden"):
        reachability(options(namespaces=["shop"]), False)


NONE = ("kubeconfig", "context", "markdown", "results_file", "section")


def compared(path: pathlib.Path, old: list[str], new: list[str], **given: t.Any) -> dict[str, t.Any]:
    """Two revisions of a folder."""
    where = revised(path, old, new)
    sides = {side: {"manifests": where, "revision": at, "over_cluster": False} for side, at in SIDES.items()}
    return compare(
        {**dict.fromkeys(NONE), **sides, "namespaces": [], "allow_new": [], "fail_on": "never", **given}, False
    )


SIDES = {"old": "HEAD~1", "new": "HEAD"}
WIDER = WAYPOINT.replace("methods: [GET]", "methods: [GET, POST]")
OTHERS = "shop/app, shop/client, shop/any other and 1 more"


@pytest.mark.parametrize(
    ("old", "new", "kind", "wanted"),
    [
        (
            [SHOP, WAYPOINT],
            [SHOP, WIDER],
            "opened",
            ["POST", "denied_l7 (no ALLOW rule of shop/get)", "allowed (shop/get rule 0)", "shop/get has changed"],
        ),
        ([SHOP, WIDER], [SHOP, WAYPOINT], "closed", ["POST", "allowed", "denied_l7", "shop/get has changed"]),
        ([SHOP, WAYPOINT], [SHOP, GATEWAY], "opened", ["POST", "denied_l7", "allowed", "shop/get is gone"]),
        ([PLAIN], [PLAIN, L4], "closed", ["outside of the mesh", "Service shop/app:80", "denied_l4", "shop/l4 is new"]),
        # A label is no policy.
        (
            [PLAIN, WAYPOINT],
            [SHOP, WAYPOINT],
            "closed",
            ["shop/client", "Service shop/app:80", "POST", "allowed (no ALLOW policy in force)"],
        ),
        ([SHOP], [SHOP, L4.replace("serviceAccounts: [client]", "ipBlocks: [10.0.0.0/8]")], "unclear", ["unknown"]),
        # A door that is new was shut before.
        ([PLAIN.replace("port: 80", "port: 81")], [PLAIN], "opened", ["broken (the destination does not exist)"]),
    ],
)
def test_what_opens_and_closes_is_named_with_its_reason(
    tmp_path: pathlib.Path, old: list[str], new: list[str], kind: str, wanted: list[str]
) -> None:
    found = compared(tmp_path, old, new)
    text = json.dumps(found[kind])
    assert all(word in text for word in wanted), text
    assert found["counts"][kind]


@pytest.mark.parametrize(
    ("texts", "spaces", "words"),
    [([L4], [], "there is no destination: add"), ([SHOP], ["shpo"], "there is no shpo; known are shop")],
)
def test_a_what_if_over_nothing_is_no_answer(
    tmp_path: pathlib.Path, texts: list[str], spaces: list[str], words: str
) -> None:
    with pytest.raises(LabError, match=words):
        compared(tmp_path, [*texts, "# a comment"], texts, namespaces=spaces)


def test_nothing_differs_from_itself(tmp_path: pathlib.Path) -> None:
    found = compared(tmp_path, [SHOP, WAYPOINT, "# a comment"], [SHOP, WAYPOINT])
    assert {*found["counts"].values()} == {0}
    assert found["table"][-1] == "nothing opens, and nothing closes"
    assert found["verdict"] == "pass"


def test_a_change_that_opens_fails_unless_it_is_named(tmp_path: pathlib.Path) -> None:
    states = [SHOP, WAYPOINT], [SHOP, WIDER]
    strict: dict[str, t.Any] = {"fail_on": "opened"}
    with pytest.raises(LabError, match="name in allow_new what is meant to open"):
        compared(tmp_path, *states, **strict)
    names = ["shop/app", "shop/client", "shop/any other", "any other/any other"]
    pairs = [f"{name} -> Service shop/app:80" for name in names]
    (tmp_path / "b").mkdir()
    found = compared(tmp_path / "b", *states, **strict, allow_new=[*pairs, "shop/old -> *"])
    assert found["counts"]["opened"] == 4
    assert "allow_new names nothing that opens: shop/old -> *" in found["warnings"]
    (tmp_path / "c").mkdir()
    with pytest.raises(LabError) as caught:
        compared(tmp_path / "c", *states, **strict, allow_new=[f"{pair} POST" for pair in pairs[1:]])
    assert "shop/app " in caught.value.message
    assert "shop/client" not in caught.value.message


def test_a_change_is_a_comment_and_a_report(tmp_path: pathlib.Path) -> None:
    comment, results = tmp_path / "comment.md", tmp_path / "results.json"
    files: dict[str, t.Any] = {"markdown": str(comment), "results_file": str(results), "section": "what-if"}
    compared(tmp_path, [SHOP, WAYPOINT], [SHOP, WIDER], **files)
    text = comment.read_text(encoding="utf-8")
    assert "**Something opens that `allow_new` does not name.**" in text
    assert "| opened | shop/app, shop/client, shop/any other and 1 more | Service shop/app:80 | POST |" in text
    written = junit(report_of("Who may call whom", {"what-if": read_results(str(results))}))
    assert 'name="shop/client -&gt; Service shop/app:80 POST"' in written
    assert 'failures="4"' in written


def test_what_may_have_opened_fails_and_what_may_have_closed_does_not(tmp_path: pathlib.Path) -> None:
    by_address = L4.replace("serviceAccounts: [client]", "ipBlocks: [10.0.0.0/8]")
    compared(tmp_path, [SHOP], [SHOP, by_address], fail_on="opened")
    (tmp_path / "b").mkdir()
    with pytest.raises(LabError, match="unclear"):
        compared(tmp_path / "b", [SHOP, L4], [SHOP, by_address], fail_on="opened")

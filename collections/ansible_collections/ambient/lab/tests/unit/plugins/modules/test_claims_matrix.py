# The module claims_matrix as a whole: documentation, and from parameters to a file and back, with real curl.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import json
import pathlib
import typing as t

import jsonschema
import pytest
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._claims.schema import claims_schema
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._common.progress import told
from ansible_collections.ambient.lab.plugins.module_utils._matrix.claims_matrix import StandingEdge, matrix
from ansible_collections.ambient.lab.plugins.module_utils._matrix.engine import Unavailable, unable
from ansible_collections.ambient.lab.plugins.module_utils._mesh.destinations import resolve
from ansible_collections.ambient.lab.plugins.module_utils._mesh.load import Asked
from ansible_collections.ambient.lab.plugins.modules import claims_matrix
from ansible_collections.ambient.lab.tests.unit.fakes import report as fakes
from ansible_collections.ambient.lab.tests.unit.fakes.api import FakeApi
from ansible_collections.ambient.lab.tests.unit.fakes.matrix import service
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, pod
from ansible_collections.ambient.lab.tests.unit.fakes.servers import ScriptedServer


class Lab:
    """A cluster of two sources and a headless Service whose pod is the scripted server: real curl, no network."""

    def __init__(self, api: FakeApi, server: ScriptedServer, folder: pathlib.Path) -> None:
        self.api, self.server, self.folder = api, server, folder
        ports = [{"name": "http", "port": 80, "targetPort": server.port}, {"port": 53, "protocol": "UDP"}]
        sources = [pod("app", ip="127.0.0.1"), pod("curl", mesh=False), pod("late", ready=False)]
        self.put("pods", sources)
        self.put("services", [service("app", ports=ports, clusterIP="None")])
        api.objects["/api/v1/namespaces/default"] = {"metadata": {"name": "default"}}
        self.file = folder / "claims.yml"

    def put(self, kind: str, items: list[Object]) -> None:
        """Replace a list of the namespace default."""
        self.api.objects[f"/api/v1/namespaces/default/{kind}"] = {"items": items}

    def params(self, **changed: t.Any) -> dict[str, t.Any]:
        """Parameters of the module with their defaults."""
        return {
            **{name: option.get("default") for name, option in claims_matrix.SPEC.items()},
            "kubeconfig": self.api.kubeconfig(self.folder),
            "file": str(self.file),
            "namespaces": ["default"],
            "paths": ["/ok", "/proxy_403"],
            "pod_ip": True,
            "witnesses": "none",
            "interval": 0,
            **changed,
        }

    def run(self, check_mode: bool = False, diff: bool = False, **changed: t.Any) -> dict[str, t.Any]:
        """Run the module."""
        return matrix(self.params(**changed), check_mode, diff)


@pytest.fixture
def lab(tmp_path: pathlib.Path) -> t.Iterator[Lab]:
    with contextlib.ExitStack() as stack:
        yield Lab(stack.enter_context(FakeApi({})), stack.enter_context(ScriptedServer()), tmp_path)


def test_from_parameters_to_a_file_and_back(lab: Lab) -> None:
    results = lab.folder / "results.json"
    keep: dict[str, t.Any] = {"results_file": str(results), "section": "all"}
    dry = lab.run(check_mode=True, diff=True, **keep)
    assert (dry["changed"], dry["verdict"], dry["claims"]) == (True, "observed", 4)
    assert not lab.file.exists()
    assert not results.exists()
    first = lab.run(diff=True, **keep)
    text = lab.file.read_text()
    assert first["changed"]
    assert first["diff"]["after"] == text == dry["diff"]["after"]
    assert [item["mesh"] for item in first["sources"]] == [True, False]
    assert first["left_out"] == [{"what": "app.default:53", "reason": "UDP: curl speaks TCP"}]
    assert first["unprobed"] == [{"source": "default/late", "reason": "pod default/late is Running, but not ready"}]
    assert "# Not probed: default/late (none of its pods is ready)\n" in text
    assert "  # From default/curl, not in the mesh\n" in text
    assert [claim["name"] for claim in yaml.safe_load(text)["claims"]] == [item["name"] for item in first["cells"]]
    assert len(parse_claims(yaml.safe_load(text)["claims"], "x")) == 4
    assert [item["outcome"] for item in first["cells"]] == ["allowed", "denied_l7"] * 2
    kept = json.loads(results.read_text())["all"]["matrix"]
    assert (kept["cells"], kept["methods"]) == (first["cells"], ["GET"])
    documented = yaml.safe_load(claims_matrix.RETURN)
    assert set(first) - {"changed", "diff", "warnings"} <= set(documented)
    again = lab.run()
    assert not again["changed"]
    assert lab.file.read_text() == text
    same = lab.run(state="compare", **keep)
    assert (same["verdict"], same["same"], same["changed"]) == ("pass", 4, False)
    assert set(same) - {"changed", "warnings"} <= set(documented)


def test_a_run_says_what_it_has_come_to(lab: Lab) -> None:
    lines: list[str] = []
    with told(lines.append):
        lab.run(state="observe")
        lab.run(state="compare")
    assert [line.partition("; left out: ")[0] for line in lines] == [
        f"4 of 4 pairs observed, and written to {lab.file}",
        f"4 of 4 pairs compared with {lab.file}",
    ]
    assert "app.default:53 (" in lines[0]


def test_the_file_is_one_that_editors_and_ci_take(lab: Lab) -> None:
    lab.run(state="observe")
    jsonschema.validate(yaml.safe_load(lab.file.read_text(encoding="utf-8")), claims_schema())


def test_what_has_changed_since_is_shown_and_kept(lab: Lab) -> None:
    results = lab.folder / "results.json"
    results.write_text(json.dumps({"all": fakes.l7()}))
    lab.run()
    content = yaml.safe_load(lab.file.read_text())
    opened, closed = content["claims"][0], content["claims"][1]
    opened.update(name="opened", expect="denied_l4", by="default/old")
    closed.update(name="closed", expect={"outcome": "allowed", "http_code": 200})
    content["claims"][2]["from"] = {"service_account": "gone", "namespace": "default"}
    content["claims"][3]["from"] = {"service_account": "late", "namespace": "default"}
    lab.file.write_text(yaml.safe_dump(content))
    before = lab.file.read_text()
    arguments: dict[str, t.Any] = {"state": "compare", "results_file": str(results), "section": "all"}
    with pytest.raises(LabError) as caught:
        lab.run(**arguments)
    message, found = caught.value.message, caught.value.result
    assert message.startswith("6 of 6 pairs differ from claims.yml: 1 opened, 1 closed, 1 unprobed, 2 added, 1 gone")
    assert "why:  opened: opened: it was denied, and is let through now" in message
    assert "get authorizationpolicy old -o yaml" in message
    assert message.endswith("write the file anew with state=observe and commit it")
    assert found["verdict"] == "fail"
    assert [item["name"] for item in found["opened"]] == ["opened"]
    assert found["opened"][0]["policy"] == "default/old"
    assert (found["closed"][0]["was"], found["closed"][0]["now"]) == ("allowed HTTP 200", "denied_l7 HTTP 403")
    assert len(found["added"]) == 2
    assert len(found["gone"]) == 1
    assert lab.file.read_text() == before
    section = json.loads(results.read_text())["all"]
    assert len(section["after"]["claims"]) == 5
    assert [item["name"] for item in section["matrix"]["closed"]] == ["closed"]
    returned = lab.run(fail_on_difference=False, **arguments)
    assert (returned["verdict"], returned["changed"]) == ("fail", False)


def test_sources_that_need_a_pod_do_not_fail_a_comparison_in_check_mode(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run()
    monkeypatch.setattr(
        "ansible_collections.ambient.lab.plugins.module_utils._matrix.engine.lacking",
        lambda container, stdout, problem: f"its container {container} has no curl",
    )
    arguments: dict[str, t.Any] = {"state": "compare", "probe_with": "pod", "probe_image": "tools"}
    returned = lab.run(check_mode=True, **arguments)
    # Nothing differs, and nothing is known to be as it was.
    assert (returned["verdict"], returned["same"]) == ("unknown", 0)
    assert [item["source"] for item in returned["unprobed"]] == ["default/app", "default/curl", "default/late"]
    assert "POST" not in str(lab.api.asked)
    with pytest.raises(LabError, match="4 unprobed") as caught:
        lab.run(state="compare")
    assert "probe_with=pod or probe_with=ephemeral" in caught.value.message
    with pytest.raises(LabError, match="nothing could be observed, so no file is written") as caught:
        lab.run()
    assert "default/app (its container main has no curl" in caught.value.message


def test_check_mode_keeps_what_the_file_says_of_sources_that_need_a_pod(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.run()
    place = "asked from a short-lived pod with this ServiceAccount"
    text = lab.file.read_text().replace("in the mesh\n", f"in the mesh, {place}\n").replace("denied_l7", "timeout", 1)
    lab.file.write_text(text)
    monkeypatch.setattr(
        "ansible_collections.ambient.lab.plugins.module_utils._matrix.engine.lacking",
        lambda container, stdout, problem: f"its container {container} has no curl",
    )
    arguments: dict[str, t.Any] = {"probe_with": "pod", "probe_image": "tools"}
    dry = lab.run(check_mode=True, diff=True, **arguments)
    assert dry["diff"]["after"] == text
    assert (dry["changed"], dry["claims"]) == (False, 4)
    assert [item["source"] for item in dry["unprobed"]] == ["default/app", "default/curl", "default/late"]
    assert (
        "3 sources that were not probed: default/app (its container main has no curl; check mode" in dry["warnings"][0]
    )
    # A real run would write a file where there is none; nobody knows what would be in it.
    for content in (None, "no claims"):
        lab.file.unlink(missing_ok=True)
        if content:
            lab.file.write_text(content)
        dry = lab.run(check_mode=True, diff=True, **arguments)
        assert (dry["changed"], dry["verdict"]) == (True, "unknown")
        assert not {"claims", "diff"} & set(dry)


def test_check_mode_does_not_know_what_one_source_would_add(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.run(exclude=["default/app"])
    monkeypatch.setattr(
        "ansible_collections.ambient.lab.plugins.module_utils._matrix.claims_matrix.unable",
        lambda sources, *rest: {
            **unable(sources, *rest),
            **{item: Unavailable("no curl", True) for item in sources if item.service_account == "app"},
        },
    )
    dry = lab.run(check_mode=True, diff=True, probe_with="pod", probe_image="tools")
    assert (dry["changed"], dry["verdict"], len(dry["cells"])) == (True, "unknown", 2)
    # The file is right as far as it goes, and a real run would find more.
    same = lab.run(check_mode=True, state="compare", probe_with="pod", probe_image="tools")
    assert (same["verdict"], same["same"]) == ("unknown", 2)


def test_a_source_that_nobody_could_stand_in_for_fails_in_check_mode_too(lab: Lab) -> None:
    lab.run()
    lab.put("pods", [pod("app", ip="127.0.0.1"), pod("curl", ready=False)])
    with pytest.raises(LabError, match="2 unprobed"):
        lab.run(check_mode=True, state="compare", probe_with="pod", probe_image="tools")


def test_a_source_by_labels_is_in_the_mesh_like_its_pod(lab: Lab) -> None:
    lab.run()
    content = yaml.safe_load(lab.file.read_text())
    content["claims"][0]["from"] = {"labels": {"app": "app"}, "namespace": "default"}
    lab.file.write_text(yaml.safe_dump(content))
    found = lab.run(state="compare", fail_on_difference=False)
    assert {item["name"]: item["mesh"] for item in found["sources"]} == {
        "a pod with labels app=app in namespace default": True,
        "default/app": True,
        "default/curl": False,
    }


def test_what_a_claim_calls_in_another_namespace_is_looked_for(lab: Lab) -> None:
    lab.run()
    content = yaml.safe_load(lab.file.read_text())
    content["claims"][0].update(name="old", to="http://old.shop:80/")
    lab.file.write_text(yaml.safe_dump(content))
    lab.api.objects["/api/v1/namespaces/shop"] = {"metadata": {"name": "shop"}}
    found = lab.run(state="compare", fail_on_difference=False)
    assert [item["reason"] for item in found["gone"]] == ["there is no Service old in namespace shop"]


def test_who_may_list_only_the_matrix_finds_a_pods_own_address(lab: Lab) -> None:
    lab.api.objects |= {f"/api/v1/{kind}": (403, {"message": "only shop"}) for kind in ("pods", "services")}
    lab.api.objects["/api/v1/namespaces/shop/pods"] = {"items": [pod("app", "shop", ip="10.0.7.7")]}
    edge = StandingEdge({"kubeconfig": lab.api.kubeconfig(lab.folder), "context": None}, ["shop"])
    mesh = edge.mesh([Asked("10.0.7.7", 80, "default")], {"default"})
    assert resolve(mesh, "10.0.7.7", 80, "default").kind == "pods"


def test_a_cluster_that_is_broken_does_not_replace_a_good_file(lab: Lab) -> None:
    lab.run()
    text = lab.file.read_text()
    paths = ["/ok", "/reset_after_headers", "/garbage"]
    with pytest.raises(LabError, match="only 2 of 6 pairs could be observed, so no file is written") as caught:
        lab.run(paths=paths, timeout=2)
    assert "4 pairs that can't be told: default/app -> pod of" in caught.value.message
    assert lab.file.read_text() == text
    half = lab.run(paths=paths[:2], timeout=2)
    assert (half["claims"], len(half["unclear"])) == (2, 2)
    assert "2 pairs that can't be told" in half["warnings"][0]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"namespaces": []}, "namespaces is empty"),
        ({"namespaces": ["../x"]}, "'../x' is not a Kubernetes name"),
        ({"namespaces": ["nowhere"]}, "namespace nowhere does not exist"),
        ({"methods": []}, "methods is empty"),
        ({"methods": ["GE T"]}, "'GE T' is not an HTTP method"),
        ({"paths": ["x"]}, "'x' must begin with /"),
        ({"probe_with": "pod"}, "probe_with=pod needs probe_image"),
        ({"stable": 0}, "stable must be at least 1"),
        ({"results_file": "/nowhere/results.json"}, "needs section"),
        ({"results_file": "/nowhere/results.json", "section": "x"}, "the folder of /nowhere/results.json"),
        ({"file": "/nowhere/claims.yml"}, "the folder of /nowhere/claims.yml does not exist"),
        ({"state": "compare"}, "write it with state=observe first"),
        ({"exclude": ["*"]}, "there is no source"),
    ],
)
def test_wrong_input_fails_before_any_traffic(lab: Lab, changed: dict[str, t.Any], words: str) -> None:
    with pytest.raises(LabError) as caught:
        lab.run(**changed)
    assert words in caught.value.message
    assert lab.server.requests == []

"""A user's ways to the lab's API, as kubectl takes them, and what of a claim the API server writes down."""

from __future__ import annotations

import base64
import copy
import datetime
import io
import json
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import websocket
import yaml
from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import prove
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.tests.unit.fakes.proxy import FakeProxy
from fault_world import Checked, check, parameters
from programs import output
from project import COLLECTION, ROOT
from running_lab import Lab
from trial_world import pod

Object = dict[str, Any]

TO = "http://sample-app:8080/"
ALLOWED = {"name": "allowed", "from": {"pod": "curl-allow"}, "to": TO, "expect": "allowed"}
DENIED = {
    "name": "denied",
    "from": {"pod": "curl-deny"},
    "to": TO,
    "expect": "denied_l4",
    "by": "default/layer4-authz",
}
NAMED = "kubernetes.default.svc"
# Nothing listens on port 9.
NOWHERE = "http://127.0.0.1:9"
# Unpacks the check in a pod, and runs it there.
INSIDE = """
import base64, io, json, sys, zipfile
given = json.load(sys.stdin)
zipfile.ZipFile(io.BytesIO(base64.b64decode(given["packed"]))).extractall("/tmp/check")
sys.path.insert(0, "/tmp/check")
from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import prove
print(prove(given["params"], check_mode=False)["verdict"])
"""
TOKENS = {place: f"planted-{place}-{secrets.token_hex(4)}" for place in ("header", "body", "user", "password")}


class Kubeconfig:
    """The lab's, with parts of it changed."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._content = yaml.safe_load(Path(lab.facts["kubeconfig"]).read_text(encoding="utf-8"))
        self._folder = folder
        (self.cluster,) = (item["cluster"] for item in self._content["clusters"])
        (self.user,) = (item["user"] for item in self._content["users"])
        self.port = int(self.cluster["server"].rpartition(":")[2])

    def written(self, cluster: Object | None = None, user: Object | None = None) -> str:
        """Path of one with other values of its cluster, or another user."""
        content = copy.deepcopy(self._content)
        content["clusters"][0]["cluster"].update(cluster or {})
        content["users"][0]["user"] = user if user is not None else self.user
        path = self._folder / "kubeconfig"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        path.chmod(0o600)
        return str(path)

    def plugin(self, *lines: str) -> str:
        """Path of one whose user logs in by a program."""
        program = self._folder / "login.sh"
        program.write_text("\n".join(["#!/bin/sh", *lines]), encoding="utf-8")
        program.chmod(0o700)
        call = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(program), "interactiveMode": "Never"}
        return self.written(user={"exec": call})


class Audit:
    """What the API server writes down from now on."""

    def __init__(self, lab: Lab) -> None:
        self.folder = lab.folder / "logs"  # a folder for each node
        self._start = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def events(self) -> list[Object]:
        """Of requests that came since."""
        lines = [
            line for path in self.folder.glob("*/ambient-lab/audit*.jsonl") for line in path.read_text().splitlines()
        ]
        return [event for event in map(json.loads, lines) if event["requestReceivedTimestamp"] >= self._start]

    def execs(self) -> list[Object]:
        """Those that ran something in a pod."""
        return [event for event in self.events() if event.get("objectRef", {}).get("subresource") == "exec"]


@pytest.fixture
def audit(lab: Lab) -> Audit:
    return Audit(lab)


@pytest.fixture
def kubeconfig(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubeconfig:
    """Without a proxy of this machine's own."""
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return Kubeconfig(lab, tmp_path)


def checked(lab: Lab, path: str | None, *claims: Object) -> Checked:
    """What the check says of these claims (of both without one), in one round."""
    given = list(claims or (ALLOWED, DENIED))
    return check(lab, given, namespace="default", kubeconfig=path, stable=1, timeout=0.0)


def refusal(lab: Lab, path: str, claim: Object = ALLOWED) -> str:
    """Why nothing could be asked."""
    with pytest.raises(LabError) as caught:
        prove(parameters(lab, [claim], namespace="default", kubeconfig=path), check_mode=False)
    assert not caught.value.result
    return caught.value.message


def test_who_acts_as_somebody_else_has_that_ones_rights(lab: Lab, kubeconfig: Kubeconfig, audit: Audit) -> None:
    acting = {**kubeconfig.user, "as": "system:serviceaccount:default:nobody"}
    assert 'User "system:serviceaccount:default:nobody" cannot list' in refusal(lab, kubeconfig.written(user=acting))
    acting = {**kubeconfig.user, "as": "auditor", "as-groups": ["system:masters"]}
    assert checked(lab, kubeconfig.written(user=acting)).verdict == "pass"
    assert {event["impersonatedUser"]["username"] for event in audit.execs()} == {"auditor"}


def test_of_a_proxy_the_cluster_needs_none(lab: Lab, kubeconfig: Kubeconfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", NOWHERE)
    assert checked(lab, kubeconfig.written(), ALLOWED).verdict == "pass"
    (node,) = lab.get("nodes", "-l", "node-role.kubernetes.io/control-plane")["items"]
    address = next(item["address"] for item in node["status"]["addresses"] if item["type"] == "InternalIP")
    path = kubeconfig.written({"server": f"https://{address}:6443"})
    for listed in (f".corp.example,{address}", f"{address}:6443", "10.0.0.0/8"):
        monkeypatch.setenv("NO_PROXY", listed)
        assert checked(lab, path, ALLOWED).verdict == "pass", listed
    monkeypatch.delenv("NO_PROXY")
    assert f"through the proxy {NOWHERE} of HTTPS_PROXY" in refusal(lab, path)


@pytest.mark.parametrize("source", ["kubeconfig", "HTTPS_PROXY"])
def test_through_a_proxy_that_wants_a_password(
    lab: Lab, kubeconfig: Kubeconfig, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    with FakeProxy("worker:p@ss word") as proxy:
        url = f"http://worker:p%40ss%20word@{proxy.address}"
        monkeypatch.setenv("HTTPS_PROXY", url if source == "HTTPS_PROXY" else NOWHERE)
        cluster = {"server": f"https://{NAMED}:{kubeconfig.port}"}
        path = kubeconfig.written(cluster | ({"proxy-url": url} if source == "kubeconfig" else {}))
        assert checked(lab, path).verdict == "pass"
        # Kept-alive reads, and an exec in each source.
        assert len(proxy.asked) >= 3
        assert set(proxy.asked) == {f"{NAMED}:{kubeconfig.port}"}
        wrong = kubeconfig.written(cluster | {"proxy-url": f"http://worker:wrong@{proxy.address}"})
        assert "407 Proxy Authentication Required" in refusal(lab, wrong)


def test_a_login_plugin(lab: Lab, kubeconfig: Kubeconfig) -> None:
    failing = kubeconfig.plugin("echo 'your session has ended, run: company-login' >&2", "exit 1")
    said = refusal(lab, failing)
    assert "login.sh failed with exit status 1: your session has ended, run: company-login" in said
    names = ("client-certificate-data", "client-key-data")
    certificate, key = (base64.b64decode(kubeconfig.user[name]).decode() for name in names)
    token = lab.kubectl("create", "token", "curl-allow").strip()
    answers = {"pass": {"clientCertificateData": certificate, "clientKeyData": key}, "": {"token": token}}
    for verdict, status in answers.items():
        kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        path = kubeconfig.plugin(f"cat <<'EOF'\n{json.dumps({**kind, 'status': status})}\nEOF")
        if verdict:
            assert checked(lab, path).verdict == verdict
        else:
            assert 'User "system:serviceaccount:default:curl-allow" cannot' in refusal(lab, path)


@pytest.fixture
def account(lab: Lab) -> Iterator[str]:
    """A pod of a ServiceAccount with the rights that the documentation names; its name."""
    meta = {"name": "claims", "namespace": "default"}
    text = (ROOT / "docs/how-to/own-policies.md").read_text(encoding="utf-8")
    role = yaml.safe_load("apiVersion: rbac." + text.partition("apiVersion: rbac.")[2].partition("```")[0])
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "claims"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "claims"},
        "subjects": [{"kind": "ServiceAccount", **meta}],
    }
    objects = [{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}, role, binding]
    objects.append(pod("claims", "default", lab.facts["images"]["app"], ["sleep", "86400"], {}))
    try:
        lab.apply(objects)
        lab.kubectl("wait", "--for=condition=Ready", "pod/claims", "--timeout=50s")
        yield "claims"
    finally:
        for item in reversed(objects):
            lab.delete(item)


def test_in_a_pod_its_own_account_is_the_user(lab: Lab, account: str, audit: Audit) -> None:
    """The check itself runs there: nobody has given it a kubeconfig."""
    folders = [
        COLLECTION / "plugins/module_utils",
        *(Path(str(item.__file__)).parent for item in (urllib3, websocket, yaml)),
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in folders:
            above = ROOT / "collections" if folder.is_relative_to(COLLECTION) else folder.parent
            for path in folder.rglob("*.py"):
                archive.write(path, path.relative_to(above))
    given = {
        "packed": base64.b64encode(packed.getvalue()).decode(),
        "params": parameters(lab, [ALLOWED, DENIED], namespace="default", kubeconfig=None, stable=1, timeout=0.0),
    }
    command = [*lab.command(), "exec", "-i", account, "--", "python3", "-c", INSIDE]
    assert output(command, given=json.dumps(given)) == "pass\n"
    assert {event["user"]["username"] for event in audit.execs()} >= {"system:serviceaccount:default:claims"}


def test_a_token_is_in_nothing_that_is_written_down(lab: Lab, audit: Audit, tmp_path: Path) -> None:
    """Neither by the API server and the node, nor by the proxies on the way, nor in what the user is shown."""
    source = {"pod": "curl", "namespace": "layer7"}
    header, body = {"authorization": f"Bearer {TOKENS['header']}"}, f"password={TOKENS['body']}"
    post = {"url": TO, "method": "POST", "headers": header, "body": body}
    claims = [
        {"name": "untrue", "from": source, "to": {"url": TO, "headers": header}, "expect": "denied_l7"},
        {"name": "true", "from": source, "to": post, "expect": "denied_l7"},
    ]
    results = tmp_path / "results.json"
    said = check(lab, claims, namespace="layer7", stable=1, timeout=0.0, results_file=str(results), section="x")
    assert [item["verdict"] for item in said.claims.values()] == ["fail", "pass"]
    in_url = f"http://{TOKENS['user']}:{TOKENS['password']}@sample-app:8080/"
    refused = refusal(lab, lab.facts["kubeconfig"], {**claims[1], "to": in_url})
    proxies = lab.kubectl("logs", "-n", "layer7", "deployment/waypoint", "--tail=-1")
    proxies += lab.kubectl("logs", "-n", "istio-system", "-l", "app=ztunnel", "--tail=-1")
    kept = {str(path): path.read_text(errors="replace") for path in [results, *audit.folder.glob("*/ambient-lab/*")]}
    kept |= {"shown": f"{said} {refused}", "proxies": proxies}
    assert [(place, name) for name, text in kept.items() for place, token in TOKENS.items() if token in text] == []
    # The file is the right one: it has this exec, and where the claim's result came from.
    assert "/api/v1/namespaces/layer7/pods/curl/exec" in {
        event["requestURI"].partition("?")[0] for event in audit.execs()
    }
    assert "probe" not in str([event["requestURI"] for event in audit.execs()])

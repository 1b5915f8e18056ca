# A folder of manifests as a mesh: what a cluster would make of it, and what is wrong with a file.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pathlib

import pytest
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError
from ansible_collections.ambient.lab.plugins.module_utils._mesh.folder import read_folder
from ansible_collections.ambient.lab.tests.unit.fakes.meshes import ask

SHOP = """
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: shop}
spec:
  template:
    metadata: {labels: {app: app}}
    spec: {serviceAccountName: app, containers: [{name: main, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: List
items:
  - apiVersion: v1
    kind: Service
    metadata: {name: app, namespace: shop, labels: {istio.io/use-waypoint: wp}}
    spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}]}
  - {apiVersion: v1, kind: Pod, metadata: {name: client, namespace: shop}, spec: {serviceAccountName: client}}
"""
WAYPOINT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: wp, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: get, namespace: shop}
spec: {targetRefs: [{kind: Service, name: app}], rules: [{to: [{operation: {methods: [GET]}}]}]}
"""
L4 = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: l4, namespace: shop}
spec: {rules: [{from: [{source: {serviceAccounts: [client]}}]}]}
"""


def folder(path: pathlib.Path, **files: str) -> str:
    (path / "more").mkdir(exist_ok=True)
    for name, text in files.items():
        (path / "more" / f"{name}.yaml").write_text(text, encoding="utf-8")
    (path / "values.yaml").write_text("replicas: 1\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("files", "method", "outcome"),
    [
        ({"shop": SHOP}, "POST", "allowed"),
        ({"shop": SHOP, "waypoint": WAYPOINT}, "POST", "denied_l7"),
        ({"shop": SHOP, "waypoint": WAYPOINT}, "GET", "allowed"),
        # The policy of the pods forgets the waypoint.
        ({"shop": SHOP, "waypoint": WAYPOINT, "l4": L4}, "GET", "denied_upstream"),
        ({"shop": SHOP, "l4": L4}, "GET", "allowed"),
        ({"shop": SHOP, "l4": L4.replace("client", "other")}, "GET", "denied_l4"),
        # Nobody knows a pod's address yet.
        ({"shop": SHOP, "l4": L4.replace("serviceAccounts: [client]", "ipBlocks: [10.0.0.0/8]")}, "GET", "unknown"),
    ],
)
def test_what_a_folder_says(tmp_path: pathlib.Path, files: dict[str, str], method: str, outcome: str) -> None:
    mesh = read_folder(folder(tmp_path, **files))
    found = ask(mesh, "http://app/", "client", "shop", method=method)
    assert found.outcome == outcome, found.why


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "bad.yaml can't be read as YAML"),
        ("apiVersion: v1\nkind: Pod\n", "bad.yaml: a Pod has no metadata.name"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: 1\n", "Pod p: spec must be a mapping"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: [a]}\n", "metadata.labels must be a mapping"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: pathlib.Path, text: str, words: str) -> None:
    with pytest.raises(LabError, match=words.replace(".", r"\.")):
        read_folder(folder(tmp_path, bad=text))


def test_a_folder_without_objects_proves_nothing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(LabError, match="holds no Kubernetes objects"):
        read_folder(folder(tmp_path))

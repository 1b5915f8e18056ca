"""What a cluster with upstream's images hands over: upstream's charts and images, and what a user changes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ambient_embedded.parts import Bill
from fleet import play
from project import CACHE, ROOT, defaults

UPSTREAM = defaults("cluster")["cluster_upstream"]
OWN_CHARTS = {name: f"/charts/{name}" for name in ("base", "istiod", "cni", "ztunnel")}


@pytest.fixture(scope="session")
def programs() -> Path:
    """The folder with helm, as the embedded cluster's build has made it."""
    folder = Bill(CACHE).programs.folder(CACHE)
    if not folder.is_dir():
        pytest.skip(f"{folder} is not built: run `make build` first (helm is in it)")
    return folder


def handed_over(folder: Path, monkeypatch: pytest.MonkeyPatch, programs: Path, **variables: Any) -> dict[str, Any]:
    """The lab.json of an existing cluster, as check mode shows it; the cluster is not asked."""
    (folder / "helm").symlink_to(programs / "helm")
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    (folder / "kubeconfig").touch()
    given = {"cluster_provider": "existing", "cluster_kubeconfig": str(folder / "kubeconfig"), **variables}
    places = {"cluster_name": "foreign", "lab_dir": str(folder / "lab"), "cluster_state_dir": str(folder / "state")}
    ran = play("site.yml", "--tags", "cluster", "--check", "--diff", "-e", json.dumps(given | places))
    assert ran.returncode == 0, ran.stdout
    written = ran.stdout[ran.stdout.index("\n+{") :].splitlines()
    loaded: dict[str, Any] = json.loads("\n".join(line[1:] for line in written if line.startswith("+")))
    return loaded


def test_a_kubeconfig_is_enough(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = handed_over(tmp_path, monkeypatch, programs)
    istio, kiali = UPSTREAM["istio"], UPSTREAM["kiali"]
    assert lab["helm"] == {"binary": "helm", **{key: istio[key] for key in ("charts", "repo_url", "version")}}
    assert lab["istio_values"] == {}
    assert lab["gateway_api_crds"] == istio["gateway_api_crds"]
    assert lab["kiali"] == kiali
    assert lab["images"] == UPSTREAM["images"]
    assert (lab["provider"], lab["disposable"], lab["node_ports"]) == ("existing", False, {})


def test_one_key_is_changed_and_the_rest_stays(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {
        "cluster_istio": {"version": "1.31.0", "values": {"hub": "mirror/istio"}},
        "cluster_kiali": {"version": "2.26.0"},
        "cluster_images": {"curl": "mirror/curl:1"},
    }
    lab = handed_over(tmp_path, monkeypatch, programs, **changes)
    assert lab["helm"]["charts"] == UPSTREAM["istio"]["charts"]
    assert (lab["helm"]["repo_url"], lab["helm"]["version"]) == (UPSTREAM["istio"]["repo_url"], "1.31.0")
    assert lab["istio_values"] == {"hub": "mirror/istio"}
    assert lab["kiali"] == UPSTREAM["kiali"] | {"version": "2.26.0"}
    assert lab["images"] == UPSTREAM["images"] | {"curl": "mirror/curl:1"}


def test_charts_of_ones_own_are_not_looked_for_upstream(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder has no repository and no version; a chart of another repository names its own."""
    changes: dict[str, Any] = {
        "cluster_istio": {
            "charts": OWN_CHARTS,
            "values": {"tag": "1", "variant": ""},
            "gateway_api_crds": ["/crd.yaml"],
        },
        "cluster_kiali": {"chart": "oci://mirror/kiali-server", "version": "2.27.1"},
    }
    lab = handed_over(tmp_path, monkeypatch, programs, **changes)
    assert lab["helm"] == {"binary": "helm", "charts": OWN_CHARTS, "repo_url": None, "version": None}
    assert lab["istio_values"] == {"tag": "1", "variant": ""}
    assert lab["gateway_api_crds"] == ["/crd.yaml"]
    assert lab["kiali"] == changes["cluster_kiali"] | {"repo_url": None, "values": {}}


def test_half_a_set_of_charts_is_refused(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        AssertionError, match=r"cluster_istio\.charts needs Istio's charts base, istiod, cni and ztunnel"
    ):
        handed_over(tmp_path, monkeypatch, programs, cluster_istio={"charts": {"cni": "/charts/cni"}})


@pytest.mark.parametrize(
    "place", [UPSTREAM["istio"]["repo_url"], UPSTREAM["kiali"]["repo_url"], "/gateway-api/releases/"]
)
def test_an_upstream_address_stands_in_one_place(place: str) -> None:
    """In the defaults."""
    files = [path for folder in ("roles", "playbooks", "collections") for path in (ROOT / folder).rglob("*.*")]
    found = {
        str(path.relative_to(ROOT)) for path in files if path.suffix in {".yml", ".py", ".j2"} and place in _text(path)
    }
    assert found == {"roles/cluster/defaults/main.yml"}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_node_image_is_pinned_and_of_a_kubernetes_that_istio_supports() -> None:
    """Istio 1.31 supports Kubernetes 1.32 to 1.36 (istio.io, Supported Releases)."""
    name, _, digest = UPSTREAM["kind"]["node_image"].partition("@")
    minor = int(name.rpartition(":v1.")[2].split(".")[0])
    assert UPSTREAM["istio"]["version"].startswith("1.31.")
    assert 32 <= minor <= 36
    assert digest.startswith("sha256:")
    assert len(digest) == len("sha256:") + 64

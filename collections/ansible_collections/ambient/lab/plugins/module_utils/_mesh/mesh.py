# The objects of a mesh at one moment, indexed by kind, namespace and name.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Pure: nobody is asked here. `load.py` reads the objects of a cluster, or of a folder.

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import re
import typing as t

from .._common.rounds import Retry

Object = dict[str, t.Any]
T = t.TypeVar("T")

# API path and plural name of each kind. `{}` takes "/namespaces/<name>", or nothing for a list of all namespaces.
PATHS = {
    "Pod": "/api/v1{}/pods",
    "Service": "/api/v1{}/services",
    "ConfigMap": "/api/v1{}/configmaps",
    "Deployment": "/apis/apps/v1{}/deployments",
    "EndpointSlice": "/apis/discovery.k8s.io/v1{}/endpointslices",
    "NetworkPolicy": "/apis/networking.k8s.io/v1{}/networkpolicies",
    "Gateway": "/apis/gateway.networking.k8s.io/v1{}/gateways",
    "HTTPRoute": "/apis/gateway.networking.k8s.io/v1{}/httproutes",
    "GRPCRoute": "/apis/gateway.networking.k8s.io/v1{}/grpcroutes",
    "TCPRoute": "/apis/gateway.networking.k8s.io/v1{}/tcproutes",
    "TLSRoute": "/apis/gateway.networking.k8s.io/v1{}/tlsroutes",
    "GatewayClass": "/apis/gateway.networking.k8s.io/v1{}/gatewayclasses",
    "BackendTLSPolicy": "/apis/gateway.networking.k8s.io/v1{}/backendtlspolicies",
    "ServiceEntry": "/apis/networking.istio.io/v1{}/serviceentries",
    "WorkloadEntry": "/apis/networking.istio.io/v1{}/workloadentries",
    "VirtualService": "/apis/networking.istio.io/v1{}/virtualservices",
    "DestinationRule": "/apis/networking.istio.io/v1{}/destinationrules",
    "EnvoyFilter": "/apis/networking.istio.io/v1alpha3{}/envoyfilters",
    "WasmPlugin": "/apis/extensions.istio.io/v1alpha1{}/wasmplugins",
    "TrafficExtension": "/apis/extensions.istio.io/v1alpha1{}/trafficextensions",
    "AuthorizationPolicy": "/apis/security.istio.io/v1{}/authorizationpolicies",
    "PeerAuthentication": "/apis/security.istio.io/v1{}/peerauthentications",
    "RequestAuthentication": "/apis/security.istio.io/v1{}/requestauthentications",
}
# Versions to ask for where a cluster does not serve the first one (Gateway API, experimental channel of 1.4 and older).
OLDER = {"TCPRoute": ("v1alpha2",), "TLSRoute": ("v1alpha3", "v1alpha2"), "BackendTLSPolicy": ("v1alpha3",)}
# What istiod reads whatever its revision is (istio/istio pilot/pkg/serviceregistry/ambient/ambientindex.go).
_ANY_REVISION = ("Pod", "Service", "Namespace", "Gateway", "GatewayClass", "EndpointSlice", "NetworkPolicy")
REVISION = "istio.io/rev"
NAMESPACE_PATH = "/api/v1/namespaces"
DATAPLANE_MODE = "istio.io/dataplane-mode"
BYPASS = "ambient.istio.io/bypass-inbound-capture"
REDIRECTION = "ambient.istio.io/redirection"
SIDECAR_STATUS = "sidecar.istio.io/status"
GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
_ENDED = ("Succeeded", "Failed")
INGRESS = "around waypoints unless the label istio.io/ingress-use-waypoint says otherwise, which is not evaluated"
# How istio-proxy is started in a gateway (istio/istio manifests/charts/gateways, files/kube-gateway.yaml).
_ROUTER = ["proxy", "router"]
# A label of the user's own name for a workload (istio.io/api, label.ServiceWorkloadName).
WORKLOAD_NAME = "service.istio.io/workload-name"
_HASHES = ("pod-template-hash", "rollouts-pod-template-hash")
_CRON_JOB = re.compile(r"(.+)-\d{8,10}")


def name_of(item: Object) -> str:
    """namespace/name of an object."""
    return f"{item['metadata'].get('namespace', '')}/{item['metadata']['name']}"


def namespace_of(item: Object) -> str:
    """Namespace of an object, "" where it is in none."""
    return str(item["metadata"].get("namespace", ""))


def labels_of(item: Object | None) -> dict[str, str]:
    """Labels of an object; empty where there is no object."""
    return dict((item or {}).get("metadata", {}).get("labels") or {})


def annotations_of(item: Object) -> dict[str, str]:
    """Annotations of an object."""
    return dict(item["metadata"].get("annotations") or {})


def is_true(item: Object, annotation: str) -> bool:
    """Whether an annotation is true for Go's strconv.ParseBool, as Istio reads it."""
    return annotations_of(item).get(annotation) in ("1", "t", "T", "true", "TRUE", "True")


def has_labels(item: Object, wanted: t.Mapping[str, str]) -> bool:
    """Whether an object has all of these labels."""
    return wanted.items() <= labels_of(item).items()


def addresses_of(pod: Object) -> list[str]:
    """All addresses of a pod, in the one spelling of `ip`."""
    status = pod.get("status", {})
    listed = [item.get("ip") for item in status.get("podIPs") or []] or [status.get("podIP")]
    return [ip(str(address)) for address in listed if address]


def ip(text: str) -> str:
    """An address in its one canonical spelling; any other text as it is."""
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return text


def is_ip(text: str) -> bool:
    """Whether a host is an address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_ready(pod: Object) -> bool:
    """Whether a pod is ready and not about to go."""
    conditions = pod.get("status", {}).get("conditions") or []
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    return ready and "deletionTimestamp" not in pod["metadata"]


def has_ended(pod: Object) -> bool:
    """Whether a pod has ended for good."""
    return pod.get("status", {}).get("phase") in _ENDED


def is_gateway(pod: Object) -> bool:
    """Whether a pod is a gateway's or a waypoint's: one that istiod makes for a Gateway, or one of Istio's charts."""
    containers = pod.get("spec", {}).get("containers") or []
    return GATEWAY_NAME in labels_of(pod) or any((item.get("args") or [])[:2] == _ROUTER for item in containers)


def account_of(pod: Object) -> str:
    """ServiceAccount of a pod."""
    return str(pod.get("spec", {}).get("serviceAccountName") or "default")


def workload_name(pod: Object) -> str:
    """Name of the workload that istiod takes a pod for (istio.io/istio pkg/kube/util.go, GetWorkloadMetaFromPod)."""
    metadata, labels = pod["metadata"], labels_of(pod)
    owners = [owner for owner in metadata.get("ownerReferences") or [] if owner.get("controller")]
    name = str(metadata["name"])
    if metadata.get("generateName") and owners:
        kind, name = owners[0]["kind"], str(owners[0]["name"])
        cron_job = _CRON_JOB.fullmatch(name)
        if kind == "ReplicaSet":
            for key in _HASHES:
                name = name.removesuffix(f"-{labels[key]}") if labels.get(key) else name
        elif kind == "ReplicationController":
            name = labels.get("deploymentconfig") or name
        elif kind == "Job" and cron_job:
            name = cron_job[1]
    return str(labels.get(WORKLOAD_NAME, name))


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """What istiod was told of the mesh as a whole.

    Attributes:
        root: namespace whose policies hold everywhere.
        domain: of the cluster's DNS.
        trust_domains: the mesh's own first, then its aliases.
        proxy_headers: `defaultConfig.proxyHeaders` as written.
        flags: environment of istiod that changes how policies are enforced.
        version: of istiod: major, minor and, where it is said, the patch; None where nobody says.
        providers: external authorizers by name, "http" or "grpc"; None where nobody knows.
        hides_entries: ServiceEntries are not for every namespace (serviceEntryVisibility).
        selects_namespaces: istiod reads some namespaces alone (discoverySelectors).
        assumed: what could not be read, so that Istio's default was taken; one sentence each.
        whole: all workloads are known; those of a folder may stand elsewhere.
        rest: what is written of the mesh beside that, and is not evaluated.
    """

    root: str = "istio-system"
    domain: str = "cluster.local"
    trust_domains: tuple[str, ...] = ("cluster.local",)
    proxy_headers: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)
    flags: t.Mapping[str, str] = dataclasses.field(default_factory=dict)
    version: tuple[int, ...] | None = None
    providers: t.Mapping[str, str] | None = None
    hides_entries: bool = False
    selects_namespaces: bool = False
    assumed: tuple[str, ...] = ()
    whole: bool = True
    rest: t.Mapping[str, t.Any] = dataclasses.field(default_factory=dict)

    @property
    def revision(self) -> str | None:
        """Of istiod: it leaves out objects that are labelled for another; "" takes all, None where nobody knows."""
        return self.flags.get("REVISION", "") if self.flags else None

    def takes(self, item: Object) -> bool | None:
        """Whether istiod reads an object, by its label for a revision; None where nobody knows."""
        wanted = labels_of(item).get(REVISION)
        if not wanted or item.get("kind") in _ANY_REVISION or self.revision in ("", wanted):
            return True
        return None if self.revision is None else False

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean flag of istiod."""
        return str(self.flags.get(name, default)).lower() in ("true", "1", "t")


class Mesh:
    """The objects of a mesh at one moment.

    Args:
        objects: of any kind in PATHS, or Namespaces; each has its `kind`.
        config: of the mesh.
        unread: kind and namespace ("" for all of them) that could not be read, and why. What rests on them is
            unknown, never "nothing there".
        read: kind and namespace of lists that were read, whatever became of the list of all namespaces.
    """

    def __init__(
        self,
        objects: t.Iterable[Object],
        config: MeshConfig | None = None,
        unread: t.Mapping[tuple[str, str], str] | None = None,
        read: t.Collection[tuple[str, str]] = (),
    ) -> None:
        self.config = config or MeshConfig()
        self.unread, self.read = dict(unread or {}), frozenset(read)
        self._known: dict[t.Hashable, t.Any] = {}
        self._by_kind: dict[str, dict[str, dict[str, Object]]] = {}
        self._ignored: dict[tuple[str, str, str], Object] = {}
        self._undecided: dict[tuple[str, str], str] = {}
        for item in objects:
            key = kind, namespace, name = str(item["kind"]), namespace_of(item), str(item["metadata"]["name"])
            takes = self.config.takes(item)
            if takes:
                self._by_kind.setdefault(kind, {}).setdefault(namespace, {})[name] = item
                continue
            self._ignored[key] = item
            if takes is None:
                why = f"{kind} {name_of(item)} is for one revision of istiod (label {REVISION})"
                self._undecided[kind, namespace] = f"{why}, and istiod's own is not known"

    def once(self, key: t.Hashable, work_out: t.Callable[[], T]) -> T:
        """What follows from these objects: worked out the first time it is asked for."""
        if key not in self._known:
            self._known[key] = work_out()
        return t.cast(T, self._known[key])

    def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """One object by name, whether istiod takes it or not."""
        found = self._by_kind.get(kind, {}).get(namespace, {}).get(name)
        return found or self._ignored.get((kind, namespace, name))

    def items(self, kind: str, namespace: str | None = None) -> list[Object]:
        """All objects of a kind that istiod takes, in one namespace or in all."""
        spaces = self._by_kind.get(kind, {})
        chosen = spaces.values() if namespace is None else [spaces.get(namespace, {})]
        return [item for names in chosen for item in names.values()]

    def objects(self) -> list[Object]:
        """All objects of all kinds, those that istiod leaves out too."""
        return [*(item for kind in self._by_kind for item in self.items(kind)), *self._ignored.values()]

    @property
    def spaces(self) -> set[str]:
        """Names of all namespaces that have anything, or are there themselves."""
        held = {space for spaces in self._by_kind.values() for space in spaces if space}
        return held | {str(item["metadata"]["name"]) for item in self.items("Namespace")}

    def namespace(self, name: str) -> Object | None:
        """A Namespace by name."""
        return self.get("Namespace", "", name)

    def why_unread(self, kind: str, *namespaces: str) -> str:
        """Why a kind is not known in one of these namespaces; "" where it is."""
        for namespace in namespaces:
            if why := self._undecided.get((kind, namespace)):
                return why
            for key in ((kind, namespace), (kind, "")):
                if key in self.unread and (kind, namespace) not in self.read:
                    return f"{kind} objects of namespace {namespace} can't be read: {self.unread[key]}"
        return ""

    def why_unknown(self, kind: str, namespace: str, name: str) -> str:
        """Why nobody can know whether an object exists that is not here; "" where it is, or surely does not exist."""
        label = f"{kind} {namespace}/{name}".replace(" /", " ")
        if why := self.why_unread(kind, namespace or name):
            return why
        lacks = f"{label} is not in the folder, and the cluster may have it: add it to the folder, or set over_cluster"
        return "" if self.config.whole or self.get(kind, namespace, name) else lacks

    @functools.cached_property
    def _pods_by_address(self) -> dict[str, list[Object]]:
        found: dict[str, list[Object]] = {}
        for pod in self.items("Pod"):
            if has_ended(pod):
                # The address of a pod that has ended may be another's by now.
                continue
            for address in addresses_of(pod):
                found.setdefault(address, []).append(pod)
        return found

    @functools.cached_property
    def _pods_by_label(self) -> dict[tuple[str, str, str], list[Object]]:
        found: dict[tuple[str, str, str], list[Object]] = {}
        for pod in self.items("Pod"):
            for pair in labels_of(pod).items():
                found.setdefault((namespace_of(pod), *pair), []).append(pod)
        return found

    @functools.cached_property
    def _virtual_addresses(self) -> dict[str, Object]:
        found: dict[str, Object] = {}
        for entry in self.items("ServiceEntry"):
            assigned = [item.get("value") for item in entry.get("status", {}).get("addresses") or []]
            for address in [*(entry.get("spec", {}).get("addresses") or []), *assigned]:
                found.setdefault(ip(str(address).removesuffix("/32").removesuffix("/128")), entry)
        for service in self.items("Service"):
            spec = service.get("spec", {})
            for address in spec.get("clusterIPs") or [spec.get("clusterIP")]:
                if address and address != "None":
                    found[ip(str(address))] = service
        return found

    def pods_at(self, address: str) -> list[Object]:
        """Pods with an address that have not ended; several where they use their node's network."""
        return self._pods_by_address.get(ip(address), [])

    def service_at(self, address: str) -> Object | None:
        """The Service or ServiceEntry with a virtual address."""
        return self._virtual_addresses.get(ip(address))

    def selected(self, namespace: str, labels: t.Mapping[str, str]) -> list[Object]:
        """Pods of a namespace with these labels that have not ended."""
        near = [self._pods_by_label.get((namespace, *pair), []) for pair in labels.items()]
        pods = min(near, key=len) if near else self.items("Pod", namespace)
        return [pod for pod in pods if has_labels(pod, labels) and not has_ended(pod)]

    def membership(self, pod: Object) -> Membership:
        """Whether ztunnel carries a pod's traffic, and why not."""
        name, space, own = f"pod {name_of(pod)}", namespace_of(pod), labels_of(pod).get(DATAPLANE_MODE)
        if pod.get("spec", {}).get("hostNetwork"):
            return Membership(False, f"{name} uses its node's network (hostNetwork), which is never captured")
        if SIDECAR_STATUS in annotations_of(pod):
            return Membership(False, f"{name} has a sidecar, so ztunnel does not carry its traffic", sidecar=True)
        if annotations_of(pod).get(REDIRECTION) == "enabled":
            return Membership(True)
        if is_gateway(pod):
            why = f"{name} is a gateway's: its Envoy calls by HBONE, with its own identity and by its own rules"
            return Membership(False, why, doubt=f"{why}, {INGRESS}")
        if own == "none":
            return Membership(False, f"{name} has opted out of the mesh (its label {DATAPLANE_MODE}=none)")
        # What runs already shows by its annotations whether istio-cni has captured it.
        unknown = "" if own == "ambient" or addresses_of(pod) else self.why_unknown("Namespace", "", space)
        if unknown:
            return Membership(False, f"whether {name} is in the mesh is not known: {unknown}", doubt=unknown)
        if own != "ambient" and labels_of(self.namespace(space)).get(DATAPLANE_MODE) != "ambient":
            why = f"namespace {space} is not in the mesh: it lacks {DATAPLANE_MODE}=ambient"
            return Membership(False, why, Retry.USEFUL)
        why = f"{name} is not in the mesh: it has no annotation {REDIRECTION}=enabled (istio-cni did not capture it)"
        return Membership(False, why, retry=Retry.USEFUL)


@dataclasses.dataclass(frozen=True)
class Membership:
    """Whether a pod is in the ambient mesh. retry: what keeps it out may go away. doubt: why nobody can know."""

    captured: bool
    why_not: str = ""
    retry: Retry = Retry.POINTLESS
    sidecar: bool = False
    doubt: str = ""

# Pods as a cluster would make them of a folder's objects: by controllers, Istio's injector, and istio-cni.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

from .mesh import (
    DATAPLANE_MODE,
    GATEWAY_NAME,
    REDIRECTION,
    REVISION,
    SIDECAR_STATUS,
    Membership,
    Mesh,
    Object,
    annotations_of,
    labels_of,
)
from .waypoints import gateway_account

KINDS = {
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"), "apps"),
    **dict.fromkeys(("Job", "CronJob"), "batch"),
}
# Labels of pods that no template has: controllers, the kubelet's scheduler and Istio's injector set them.
_ORDINAL, _INDEX = "statefulset.kubernetes.io/pod-name", "apps.kubernetes.io/pod-index"
_SET = (
    *("pod-template-hash", "rollouts-pod-template-hash", "controller-revision-hash", "pod-template-generation"),
    *(_ORDINAL, _INDEX, "controller-uid", "job-name", "batch.kubernetes.io/controller-uid"),
    *("batch.kubernetes.io/job-name", "batch.kubernetes.io/job-completion-index"),
    *("topology.kubernetes.io/zone", "topology.kubernetes.io/region"),
    *("service.istio.io/canonical-name", "service.istio.io/canonical-revision", "security.istio.io/tlsMode"),
)
_INJECTION, _INJECT = "istio-injection", "sidecar.istio.io/inject"
_YES = ("y", "yes", "true", "on")


def is_set_by_cluster(label: str) -> bool:
    """Whether it is not the template that gives a pod a label."""
    return label in _SET


def as_workload(document: Object) -> Object | None:
    """An object of a kind that the mesh does not know, and whose controller makes pods of a template, as one it knows.

    Args:
        document: with apiVersion, kind and metadata; as a Rollout of Argo, or a CloneSet of OpenKruise.
    """
    spec = document.get("spec")
    template = spec.get("template") if isinstance(spec, dict) else None
    inner = template.get("spec") if isinstance(template, dict) else None
    if not (isinstance(inner, dict) and isinstance(inner.get("containers"), list)):
        return None
    group = str(document.get("apiVersion", "")).rpartition("/")[0]
    # As kubectl names it: a Service of Knative is none of Kubernetes.
    return {**document, "kind": f"{document['kind']}.{group}".rstrip(".")}


def is_workload(item: Object) -> bool:
    """Whether pods are made of an object."""
    return item["kind"] in KINDS or "." in item["kind"]


def pods_of_workload(workload: Object, told_apart: bool) -> list[Object]:
    """The pods of a workload: one that stands for all. told_apart: policies tell those of a StatefulSet apart."""
    outer = workload.get("spec", {})
    outer = (outer.get("jobTemplate") or {}).get("spec") or {} if workload["kind"] == "CronJob" else outer
    template = outer.get("template") or {}
    meta, kind, name = workload["metadata"], workload["kind"], workload["metadata"]["name"]
    given, ordered = template.get("metadata") or {}, workload["kind"] == "StatefulSet"
    owner = {"kind": kind, "name": name, "controller": True}
    status: Object = {"conditions": []} if outer.get("replicas") == 0 else {}
    found = []
    for number in range(max(1, int(outer.get("replicas", 1))) if ordered and told_apart else 1):
        # Workloads of several kinds may have one name.
        pod = f"{name}-{number}" if ordered else f"{name}-{kind.lower()}-{number}"
        own = {_ORDINAL: pod, _INDEX: str(number)} if ordered and told_apart else {}
        labels = {"labels": {**(given.get("labels") or {}), **own}} if own else {}
        metadata = {**given, **labels, "name": pod, "namespace": meta["namespace"], "ownerReferences": [owner]}
        spec = dict(template.get("spec") or {})
        spec |= {"hostname": pod, "subdomain": outer.get("serviceName", "")} if ordered else {}
        found.append(as_ready({"kind": "Pod", "metadata": metadata, "spec": spec, "status": status}))
    return found


def tells_pods_apart(policies: t.Iterable[Object]) -> bool:
    """Whether a selector names one pod of a StatefulSet."""
    chosen = (((item.get("spec") or {}).get("selector") or {}).get("matchLabels") or {} for item in policies)
    return any({_ORDINAL, _INDEX} & {*labels} for labels in chosen)


def as_ready(item: Object) -> Object:
    """A pod that is ready, or a Gateway that is programmed, unless its status says something else."""
    status: Object = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    if item["kind"] == "Gateway":
        status = {"addresses": [{"type": "Hostname", "value": item["metadata"]["name"]}]}
    return {**item, "status": {**status, **(item.get("status") or {})}}


def gateway_pod(gateway: Object) -> Object:
    """The pod that istiod makes for a Gateway."""
    meta = gateway["metadata"]
    labels = {GATEWAY_NAME: meta["name"]}
    metadata = {"name": f"{meta['name']}-gateway-0", "namespace": meta["namespace"], "labels": labels}
    spec = {"serviceAccountName": gateway_account(gateway), "containers": []}
    return as_ready({"kind": "Pod", "metadata": metadata, "spec": spec})


def admitted(pod: Object, space: Object | None) -> Object:
    """A pod as it would run: with the annotation of Istio's injector, or of istio-cni where that would capture it.

    A pod with a sidecar is not captured, whatever its labels are (istio/istio cni/pkg/util/enablement_selector.go).
    """
    mode = labels_of(pod).get(DATAPLANE_MODE) or labels_of(space).get(DATAPLANE_MODE)
    sidecar = _is_injected(pod, labels_of(space))
    if pod.get("spec", {}).get("hostNetwork") or not (mode == "ambient" or sidecar):
        return pod
    said = {SIDECAR_STATUS: "injected"} if sidecar else {REDIRECTION: "enabled"}
    return {**pod, "metadata": {**pod["metadata"], "annotations": {**annotations_of(pod), **said}}}


def _is_injected(pod: Object, space: t.Mapping[str, str]) -> bool:
    """Whether Istio's injector would be asked about a pod, and would add a sidecar.

    Sources: istio/istio manifests/charts/istio-control/istio-discovery/templates/mutatingwebhook.yaml (asked),
    pkg/kube/inject/inject.go (injectRequired). The mode of the data plane counts for neither.
    """
    labels = labels_of(pod)
    said = labels.get(_INJECT, annotations_of(pod).get(_INJECT, "")).lower()
    if said and said not in _YES:
        return False
    if _INJECTION in space:
        return space[_INJECTION] == "enabled"
    return REVISION in space or REVISION in labels or labels.get(_INJECT) == "true"


def membership_of_new(mesh: Mesh, namespace: str, labels: t.Mapping[str, str]) -> Membership:
    """Whether a pod that would start in a namespace, with these labels, would be in the mesh."""
    meta = {"name": "new", "namespace": namespace, "labels": dict(labels)}
    return mesh.membership(admitted({"kind": "Pod", "metadata": meta, "spec": {}}, mesh.namespace(namespace)))

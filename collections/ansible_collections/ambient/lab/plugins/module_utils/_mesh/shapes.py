# The form of the objects that the mesh reads: what has another one is refused, and what is null is left out.
# SPDX-License-Identifier: GPL-3.0-or-later
#
# A cluster's API refuses such objects itself; a folder of manifests has nobody that does. Fields that nobody here
# reads are not looked at, but in policies of which all fields are read: there they are mistakes.
# Sources: the schemas of Kubernetes, of the Gateway API and of Istio, and what Istio's webhook
# refuses (istio/istio pkg/config/validation/validation.go).

from __future__ import annotations

import re
import typing as t

from .mesh import Object

# A type or several, an enum (a set), a list of one shape (with Ellipsis: of at least one), or a mapping: "x!" must be
# there, "*" is any key, "#" any number.
Shape = t.Any

_TEXTS = {"*": str}
_LABELS = {"matchLabels": _TEXTS, "matchExpressions": [dict]}
_ANONYMOUS = {
    "namespace": str,
    "labels": _TEXTS,
    "annotations": _TEXTS,
    "generateName": str,
    "creationTimestamp": str,
    "ownerReferences": [{"kind!": str, "name!": str, "controller": bool}],
}
_META = {**_ANONYMOUS, "name!": str}
_CONTAINER = {
    "image": str,
    "args": [str],
    "env": [{"name!": str, "value": str}],
    "ports": [{"name": str, "containerPort!": int, "protocol": str}],
}
_POD = {
    "serviceAccountName": str,
    "nodeName": str,
    "hostname": str,
    "subdomain": str,
    "hostNetwork": bool,
    "containers": [_CONTAINER],
}
_POD_STATUS = {
    "phase": str,
    "podIP": str,
    "podIPs": [{"ip": str}],
    "hostIP": str,
    "conditions": [{"type!": str, "status!": str}],
}
_WORKLOAD = {"spec": {"replicas": int, "serviceName": str, "template": {"metadata": _ANONYMOUS, "spec": _POD}}}
_PORTS = [{"name": str, "port!": int, "protocol": str, "targetPort": (int, str), "nodePort": int, "appProtocol": str}]
_ENDPOINT = {"address": str, "ports": {"*": int}, "labels": _TEXTS}
_BOUND = [{"group": str, "kind!": str, "name!": str, "namespace": str}]
# Istio's selectors know no matchExpressions.
_CHOSEN = {"matchLabels": _TEXTS}
_TARGETED = {"selector": _CHOSEN, "targetRef": _BOUND[0], "targetRefs": _BOUND}
_MATCH = {
    "path": {"type": {"Exact", "PathPrefix", "RegularExpression"}, "value": str},
    "headers": [{"type": {"Exact", "RegularExpression"}, "name!": str, "value": str}],
    "queryParams": [dict],
    "method": (str, dict),
}
_FILTERS = [{"type!": str}]
_BACKENDS = [
    {
        "group": str,
        "kind": str,
        "name!": str,
        "namespace": str,
        "port": int,
        "weight": int,
        "filters": _FILTERS,
    }
]
_ROUTE = {
    "parentRefs": [{"group": str, "kind": str, "name!": str, "namespace": str, "port": int}],
    "rules": [{"matches": [_MATCH], "filters": _FILTERS, "backendRefs": _BACKENDS}],
}


def _both(*names: str) -> Object:
    """Lists of texts, each with its negative twin."""
    return {key: [str] for name in names for key in (name, f"not{name[0].upper()}{name[1:]}")}


_SOURCE = _both(
    "principals", "namespaces", "serviceAccounts", "trustDomains", "ipBlocks", "remoteIpBlocks", "requestPrincipals"
)  # fmt: skip
_RULE = {
    "from": [{"source!": _SOURCE}, ...],
    "to": [{"operation!": _both("methods", "paths", "hosts", "ports")}, ...],
    "when": [{"key!": str, "values": [str], "notValues": [str]}],
}
_MODE = {"mode": {"UNSET", "DISABLE", "PERMISSIVE", "STRICT"}}
_JWT = {
    **dict.fromkeys(("issuer", "jwksUri", "jwks_uri", "jwks", "outputPayloadToHeader", "timeout", "presence"), str),
    **{key: [str] for key in ("audiences", "fromParams", "fromCookies", "spaceDelimitedClaims")},
    "fromHeaders": [{"name!": str, "prefix": str}],
    "outputClaimToHeaders": [{"header!": str, "claim!": str}],
    "forwardOriginalToken": bool,
}
_ACTIONS = {"ALLOW", "DENY", "AUDIT", "CUSTOM"}
_SPECS: dict[str, Shape] = {
    "Pod": _POD,
    "Service": {
        "type": str,
        "clusterIP": str,
        "clusterIPs": [str],
        "externalName": str,
        "internalTrafficPolicy": str,
        "externalTrafficPolicy": str,
        "publishNotReadyAddresses": bool,
        "selector": _TEXTS,
        "ports": _PORTS,
    },
    "NetworkPolicy": {"podSelector": _LABELS, "policyTypes": [str]},
    "Gateway": {
        "gatewayClassName": str,
        "listeners": [
            {
                "protocol": str,
                "port": int,
                "allowedRoutes": {"namespaces": {"from": {"All", "Same", "Selector", "None"}, "selector": _LABELS}},
            }
        ],
    },
    "GatewayClass": {"controllerName": str},
    **dict.fromkeys(("HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"), _ROUTE),
    "BackendTLSPolicy": {"targetRefs": _BOUND},
    "ServiceEntry": {
        "hosts!": [str],
        "addresses": [str],
        "ports": [{"number!": int, "name": str, "protocol": str, "targetPort": int}],
        "endpoints": [_ENDPOINT],
        "workloadSelector": {"labels": _TEXTS},
    },
    "WorkloadEntry": _ENDPOINT,
    "VirtualService": {"hosts": [str], "gateways": [str]},
    "DestinationRule": {"host!": str},
    "EnvoyFilter": {"workloadSelector": {"labels": _TEXTS}},
    "WasmPlugin": _TARGETED,
    "TrafficExtension": _TARGETED,
    "AuthorizationPolicy": {**_TARGETED, "action": _ACTIONS, "provider": {"name": str}, "rules": [_RULE]},
    "PeerAuthentication": {"selector": _CHOSEN, "mtls": _MODE, "portLevelMtls": {"#": _MODE}},
    "RequestAuthentication": {**_TARGETED, "jwtRules": [_JWT]},
}
_REST: dict[str, Shape] = {
    "Pod": {"status": _POD_STATUS},
    "Gateway": {"status": {"addresses": [{"value": str}]}},
    "ServiceEntry": {"status": {"addresses": [{"value": str}]}},
    "ConfigMap": {"data": _TEXTS},
    "EndpointSlice": {
        "ports": [{"name": str, "port": int}],
        "endpoints": [{"addresses": [str], "conditions": {"*": bool}, "targetRef": {"kind": str}}],
    },
    **dict.fromkeys(("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"), _WORKLOAD),
    "CronJob": {"spec": {"jobTemplate": _WORKLOAD}},
}
# Kinds of which every field is read.
_CLOSED = ("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")
_TOP = {"apiVersion": str, "status": dict}
_WORDS = {str: "a text", int: "a number", bool: "true or false", dict: "a mapping", list: "a list"}


class Misfit(ValueError):
    """A field of an object has not the form that it must have; the message begins with its path."""

    @property
    def keys(self) -> list[str | int]:
        """The path, key by key."""
        found = re.findall(r"[^.\[\]]+", str(self).partition(" ")[0].rstrip(":"))
        return [int(key) if key.isdecimal() else key for key in found]


def shaped(item: Object) -> Object:
    """An object without what is null in it, as the API keeps it; of a kind that is not read only the metadata count.

    Raises:
        Misfit: naming the field, and what it must be.
    """
    kind = str(item.get("kind"))
    # Of kinds of other groups, which have their group in the name, the template of pods is read.
    rest = _REST.get(kind, _WORKLOAD if "." in kind else {})
    shape = {"kind!": str, "metadata!": _META, "spec": _SPECS.get(kind, dict), **rest}
    closed = kind in _CLOSED
    return t.cast(Object, _fitted(item, {**shape, **_TOP} if closed else shape, "", closed))


def _fitted(value: t.Any, shape: Shape, where: str, closed: bool) -> t.Any:
    if isinstance(shape, (type, tuple)):
        types = shape if isinstance(shape, tuple) else (shape,)
        # In Python true is a number.
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise Misfit(f"{where} must be {' or '.join(_WORDS[item] for item in types if item in _WORDS)}")
        return value
    if isinstance(shape, set):
        if value not in sorted(shape):
            raise Misfit(f"{where} must be one of {', '.join(sorted(shape))}")
        return value
    if not isinstance(value, type(shape)):
        raise Misfit(f"{where or 'the object'} must be {_WORDS[type(shape)]}")
    if isinstance(shape, list):
        if shape[-1] is ... and not value:
            raise Misfit(f"{where} must have at least one item, or not be there")
        return [_fitted(item, shape[0], f"{where}[{number}]", closed) for number, item in enumerate(value)]
    found: Object = {}
    for key, item in value.items():
        inner = shape.get(key, shape.get(f"{key}!", shape.get("*", shape.get("#"))))
        if "#" in shape and not str(key).isdecimal():
            raise Misfit(f"{where}.{key}: {key} must be a number")
        path = f"{where}.{key}".removeprefix(".")
        if closed and inner is None and not where.startswith("metadata"):
            known = ", ".join(sorted(name.rstrip("!") for name in shape))
            raise Misfit(f"{path}: there is no such field; known are {known}")
        if item is not None:
            found[str(key)] = item if inner is None else _fitted(item, inner, path, closed)
    for key in shape:
        if key.endswith("!") and not found.get(key[:-1]):
            raise Misfit(f"{where}.{key[:-1]} is missing".removeprefix("."))
    return found

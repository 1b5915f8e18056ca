"""Which mesh service a DNS name means for a pod (embedded provider alone). Pure decisions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .model import IP, Service, Workload
from .state import State, best_service


@dataclass(frozen=True, slots=True)
class Found:
    """The addresses of a name, of both families; `alias` is the name behind a stripped search domain."""

    addresses: tuple[IP, ...]
    alias: str = ""


def _expand(name: str, namespace: str, domain: str) -> Iterator[str]:
    """The Kubernetes FQDNs that a short name can mean."""
    parts = name.split(".")
    if len(parts) == 1:
        yield f"{name}.{namespace}.svc.{domain}"
    elif len(parts) == 2:
        yield f"{name}.svc.{domain}"
    elif len(parts) == 3 and parts[2] == "svc":
        yield f"{name}.{domain}"


def _candidates(name: str, namespace: str, domain: str) -> Iterator[tuple[str, str]]:
    """Every full name to look for, each with the alias it implies ("" for the name itself)."""
    yield name, ""
    for full in _expand(name, namespace, domain):
        yield full, ""
    # The pod's resolver appends its search path to foreign names too: example.com.default.svc.cluster.local.
    for search in (f"{namespace}.svc.{domain}", f"svc.{domain}", domain):
        stripped = name.removesuffix("." + search)
        if stripped != name:
            yield stripped, stripped
            for full in _expand(stripped, namespace, domain):
                yield full, stripped


def _wildcards(name: str) -> Iterator[str]:
    """The name, then `*.` patterns from the narrowest to the widest."""
    yield name
    parts = name.split(".")
    for skip in range(1, len(parts)):
        yield "*." + ".".join(parts[skip:])


def lookup(state: State, client: Workload, name: str, domain: str) -> Found | None:
    """The addresses of a service or of a headless service's pod; None for a name outside the mesh."""
    wanted = name.rstrip(".").lower()
    for candidate, alias in _candidates(wanted, client.namespace, domain):
        for pattern in _wildcards(candidate):
            service = _best(state, client, pattern, f".svc.{domain}")
            if service is not None:
                shown = "" if pattern.startswith("*") else alias
                return Found(_addresses(state, client, service), shown)
        pod = _headless_pod(state, candidate, f".svc.{domain}")
        if pod is not None:
            return Found(pod.addresses)
    return None


def _best(state: State, client: Workload, hostname: str, kube_suffix: str) -> Service | None:
    """The service that the client means by this name."""
    # Without addresses only a Kubernetes headless service has an answer: its pods.
    usable = (one for one in state.services_by_host(hostname) if one.vips or one.hostname.endswith(kube_suffix))
    return best_service(usable, client.namespace)


def _addresses(state: State, client: Workload, service: Service) -> tuple[IP, ...]:
    versions = {"IPv4": (4,), "IPv6": (6,)}.get(service.ip_families, (4, 6))
    if service.vips:
        found = [vip.address for vip in service.vips if vip.network == client.network]
    else:
        found = [ip for workload in state.endpoints(service) for ip in workload.addresses]
    return tuple(ip for ip in found if ip.version in versions)


def _headless_pod(state: State, name: str, kube_suffix: str) -> Workload | None:
    """`<pod>.<service>.<namespace>.svc.<domain>` of a headless service."""
    pod, _, rest = name.partition(".")
    if not rest.endswith(kube_suffix):
        return None
    for service in state.services_by_host(rest):
        if not service.vips:
            for workload in state.endpoints(service):
                if workload.name == pod and workload.namespace == service.namespace:
                    return workload
    return None

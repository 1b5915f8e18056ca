"""The admin port: /config_dump, /logging, /quitquitquit (embedded provider alone).

The dump has the keys that `istioctl ztunnel-config` reads (istioctl/pkg/writer/ztunnel/configdump/api.go).
"""

from __future__ import annotations

import base64
import json
import platform
from collections.abc import Callable, Iterable
from http import HTTPStatus

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from .accesslog import current_levels, set_level
from .connections import Tracked
from .context import Context
from .httpserver import HttpRequest, HttpResponse, Route
from .model import Gateway, LbMode, Match, MatchKind, Policy, Service, ServiceAccountMatch, StringMatch, Workload
from .pods import PodManager

JSON = "application/json"
USAGE = "POST /logging: what is set; ?level=LEVEL or ?level=TARGET=LEVEL,...: add it; &reset: to what RUST_LOG says\n"


def routes(context: Context, pods: PodManager, quit_now: Callable[[], None]) -> dict[str, Route]:
    """The admin port's paths."""

    def config_dump(_request: HttpRequest) -> HttpResponse:
        return HttpResponse(json.dumps(dump(context, pods), indent=2).encode(), content_type=JSON)

    def logging_level(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponse(f"Invalid HTTP method\n{USAGE}".encode(), HTTPStatus.METHOD_NOT_ALLOWED)
        level, reset = request.query.get("level", ""), "reset" in request.query
        try:
            set_level(f"{context.config.log_level},{level}" if reset else level, reset=reset)
        except ValueError:
            return HttpResponse(f"Invalid level provided: {level}\n{USAGE}".encode(), HTTPStatus.BAD_REQUEST)
        return HttpResponse(f"current log level is {current_levels()}\n".encode())

    def quit_handler(request: HttpRequest) -> HttpResponse:
        if request.method != "POST":
            return HttpResponse(status=HTTPStatus.METHOD_NOT_ALLOWED)
        quit_now()
        return HttpResponse(b"shutdown now\n")

    paths: dict[str, Route] = {
        "/config_dump": config_dump,
        "/logging": logging_level,
        "/quitquitquit": quit_handler,
    }
    paths["/"] = lambda _request: HttpResponse("".join(f"{path}\n" for path in sorted(paths)).encode())
    return paths


def dump(context: Context, pods: PodManager) -> dict[str, object]:
    """Everything this ztunnel knows."""
    state = context.state
    return {
        "workloads": [_workload(workload) for _, workload in sorted(state.workloads.items())],
        "services": [_service(context, service) for service in state.services.values()],
        "policies": [_policy(policy) for _, policy in sorted(state.policies.items())],
        "stagedServices": {},  # endpoints of services that are not there yet; here each keeps its own list
        "workloadState": {uid: _pod(uid, pods) for uid in pods.proxies},
        "staticConfig": {"workloads": [], "services": [], "policies": []},
        "version": {
            "version": "embedded",
            "gitRevision": "",
            "buildStatus": f"python {platform.python_version()}",
        },
        "config": context.config.dump(),
        "certificates": [
            {
                "identity": str(identity),
                "state": state_text,
                "certChain": [_certificate(cert) for cert in certificate.chain] if certificate else [],
                "rootCerts": [_certificate(cert) for cert in certificate.roots] if certificate else [],
            }
            for identity, state_text, certificate in context.certs.entries()
        ],
    }


def _gateway(gateway: Gateway | None) -> dict[str, object] | None:
    if gateway is None:
        return None
    return {"destination": str(gateway.destination), "hboneMtlsPort": gateway.port}


def _compact(fields: dict[str, object]) -> dict[str, object]:
    """Without the fields that say nothing."""
    return {key: value for key, value in fields.items() if value not in (None, [], {}, "")}


def _workload(workload: Workload) -> dict[str, object]:
    tunnel = workload.app_tunnel
    always = {
        "uid": workload.uid,
        "workloadIps": [str(ip) for ip in workload.addresses],
        "protocol": workload.protocol.value,
        "name": workload.name,
        "namespace": workload.namespace,
        "serviceAccount": workload.service_account,
        "workloadName": workload.workload_name,
        "workloadType": workload.workload_type,
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "clusterId": workload.cluster_id,
        "node": workload.node,
        "status": "Healthy" if workload.healthy else "Unhealthy",
        "hostname": workload.hostname,
        "capacity": workload.capacity,
        "networkMode": "HostNetwork" if workload.host_network else "Standard",
        "nativeTunnel": workload.native_tunnel,
    }
    locality = workload.locality
    return always | _compact(
        {
            "trustDomain": workload.trust_domain,
            "network": workload.network,
            "waypoint": _gateway(workload.waypoint),
            "networkGateway": _gateway(workload.network_gateway),
            "locality": _compact({"region": locality.region, "zone": locality.zone, "subzone": locality.subzone}),
            "authorizationPolicies": list(workload.policies),
            "services": [str(key) for key in workload.services],
            "applicationTunnel": _compact(
                {"protocol": "PROXY" if tunnel.proxy_protocol else "NONE", "port": tunnel.port}
            )
            if tunnel
            else None,
        }
    )


def _service(context: Context, service: Service) -> dict[str, object]:
    endpoints = {
        workload.uid: {
            "workloadUid": workload.uid,
            "service": str(service.key),
            "port": {str(front): back for front, back in workload.services.get(service.key, {}).items()},
            "status": "Healthy" if workload.healthy else "Unhealthy",
        }
        for workload in context.state.endpoints(service)
    }
    always: dict[str, object] = {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": [str(vip) for vip in service.vips],
        "ports": {str(front): back for front, back in service.ports.items()},
        "endpoints": endpoints,
        "ipFamilies": service.ip_families,
    }
    balancer = None
    if service.lb_mode is not LbMode.STANDARD:
        balancer = {
            "mode": service.lb_mode.value,
            "routingPreferences": [scope.value for scope in service.lb_scopes],
            "healthPolicy": "AllowAll" if service.lb_allow_unhealthy else "OnlyHealthy",
        }
    gateways = [(_gateway(gateway) or {}) | {"weight": weight} for gateway, weight in service.waypoints]
    return always | _compact(
        {
            "cidrVips": [f"{vip.network}/{vip.cidr}" for vip in service.cidr_vips],
            "loadBalancer": balancer,
            "waypoint": _gateway(service.waypoints[0][0]) if service.waypoints else None,
            "weightedWaypoints": gateways if len(gateways) > 1 else None,
            "subjectAltNames": list(service.sans),
            "canonical": service.canonical or None,
            "visibility": "Namespace" if service.namespace_only else None,
        }
    )


def _string(pattern: StringMatch) -> dict[str, object]:
    return {pattern.kind.value: [] if pattern.kind is MatchKind.PRESENCE else pattern.value}


def _match(match: Match) -> dict[str, object]:
    def accounts(found: Iterable[ServiceAccountMatch]) -> list[dict[str, object]]:
        return [{"namespace": item.namespace, "serviceAccount": item.service_account} for item in found]

    return _compact(
        {
            "namespaces": [_string(item) for item in match.namespaces],
            "notNamespaces": [_string(item) for item in match.not_namespaces],
            "serviceAccounts": accounts(match.service_accounts),
            "notServiceAccounts": accounts(match.not_service_accounts),
            "principals": [_string(item) for item in match.principals],
            "notPrincipals": [_string(item) for item in match.not_principals],
            "sourceIps": [str(item) for item in match.source_ips],
            "notSourceIps": [str(item) for item in match.not_source_ips],
            "destinationIps": [str(item) for item in match.destination_ips],
            "notDestinationIps": [str(item) for item in match.not_destination_ips],
            "destinationPorts": list(match.destination_ports),
            "notDestinationPorts": list(match.not_destination_ports),
        }
    )


def _policy(policy: Policy) -> dict[str, object]:
    return {
        "name": policy.name,
        "namespace": policy.namespace,
        "scope": policy.scope.value,
        "action": policy.action.value,
        "rules": [[[_match(match) for match in rule] for rule in group] for group in policy.groups],
        "dryRun": policy.dry_run,
    }


def _pod(uid: str, pods: PodManager) -> dict[str, object]:
    proxy = pods.proxies[uid]
    info = proxy.pod.info

    def connections(tracked: Iterable[Tracked]) -> list[dict[str, object]]:
        return [
            {
                "src": item.src,
                "originalDst": item.original_dst,
                "actualDst": item.actual_dst,
                "protocol": item.protocol,
            }
            for item in tracked
        ]

    return {
        "state": "Draining" if proxy.draining else "Up",
        "connections": {
            "inbound": connections(proxy.inbound.open),
            "outbound": connections(proxy.outbound.open),
        },
        "info": {
            "name": info.name,
            "namespace": info.namespace,
            "trustDomain": proxy.identity.trust_domain if proxy.identity else "",
            "serviceAccount": info.service_account,
        },
    }


def _certificate(certificate: x509.Certificate) -> dict[str, object]:
    return {
        "pem": base64.b64encode(certificate.public_bytes(Encoding.PEM)).decode(),
        "serialNumber": str(certificate.serial_number),
        "validFrom": f"{certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}",
        "expirationTime": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }

"""What istiod has told this ztunnel: workloads, services and policies, indexed (embedded provider alone)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from .model import HostAddress, NetworkAddress, Policy, Scope, Service, Tunnel, Workload
from .rbac import Connection, Verdict, authorize

log = logging.getLogger("state")
K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class WorkloadInfo:
    """What istio-cni says about a pod (ZDS `WorkloadInfo`)."""

    name: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        """In upstream's form (src/state.rs)."""
        return f"{self.service_account}.{self.namespace} ({self.name})"


class UnknownWorkload(Exception):
    """istiod has not announced a pod that istio-cni has handed over."""


class State:
    """The indexed configuration; changed by the event loop's thread only."""

    def __init__(self, network: str = "", local_node: str = "", policy_log_level: int = logging.DEBUG) -> None:
        self.network = network
        self._policy_log_level = policy_log_level
        self.local_node = local_node
        self.workloads: dict[str, Workload] = {}
        self.services: dict[HostAddress, Service] = {}
        self.policies: dict[str, Policy] = {}
        self._by_address: dict[NetworkAddress, dict[str, Workload]] = {}
        self._by_name: dict[tuple[str, str], dict[str, Workload]] = {}
        self._endpoints: dict[HostAddress, dict[str, Workload]] = {}
        self._by_vip: dict[NetworkAddress, dict[str, Service]] = {}
        self._by_host: dict[str, dict[str, Service]] = {}
        self._cidr_services: list[Service] = []
        self._global: dict[str, Policy] = {}
        self._by_namespace: dict[str, dict[str, Policy]] = {}
        self._changed: asyncio.Event = asyncio.Event()
        self._policies_changed = False
        self._listeners: list[Callable[[], None]] = []

    # -- changes -------------------------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every batch that changes policies."""
        self._listeners.append(listener)

    def notify(self) -> None:
        """Tell everyone who waits that a batch of changes is complete."""
        self._changed.set()
        self._changed = asyncio.Event()
        changed, self._policies_changed = self._policies_changed, False
        for listener in self._listeners if changed else ():
            listener()

    def put_workload(self, workload: Workload) -> None:
        """Insert or replace a workload."""
        self.remove_workload(workload.uid)
        self.workloads[workload.uid] = workload
        # Host-network workloads share their node's address, so it does not identify them.
        for address in () if workload.host_network else workload.addresses:
            self._by_address.setdefault(NetworkAddress(workload.network, address), {})[workload.uid] = workload
        self._by_name.setdefault((workload.namespace, workload.name), {})[workload.uid] = workload
        for key in workload.services:
            self._endpoints.setdefault(key, {})[workload.uid] = workload

    def remove_workload(self, uid: str) -> bool:
        """Forget a workload; False if it was unknown."""
        workload = self.workloads.pop(uid, None)
        if workload is None:
            return False
        for address in workload.addresses:
            _drop(self._by_address, NetworkAddress(workload.network, address), uid)
        _drop(self._by_name, (workload.namespace, workload.name), uid)
        for key in workload.services:
            _drop(self._endpoints, key, uid)
        return True

    def put_service(self, service: Service) -> None:
        """Insert or replace a service."""
        self.remove_service(service.key)
        self.services[service.key] = service
        for vip in service.vips:
            self._by_vip.setdefault(vip, {})[str(service.key)] = service
        if service.cidr_vips:
            self._cidr_services.append(service)
        self._by_host.setdefault(service.hostname, {})[service.namespace] = service

    def remove_service(self, key: HostAddress) -> bool:
        """Forget a service; False if it was unknown."""
        service = self.services.pop(key, None)
        if service is None:
            return False
        for vip in service.vips:
            _drop(self._by_vip, vip, str(key))
        self._cidr_services = [known for known in self._cidr_services if known is not service]
        _drop(self._by_host, service.hostname, service.namespace)
        return True

    def remove_address(self, name: str) -> None:
        """Forget a resource of type Address by its xDS name: a workload's uid or `namespace/hostname`."""
        if not self.remove_workload(name):
            namespace, _, hostname = name.partition("/")
            self.remove_service(HostAddress(namespace, hostname))

    def put_policy(self, policy: Policy) -> None:
        """Insert or replace a policy."""
        self.remove_policy(policy.key)
        self._policies_changed = True
        self.policies[policy.key] = policy
        if policy.scope is Scope.GLOBAL:
            self._global[policy.key] = policy
        elif policy.scope is Scope.NAMESPACE:
            self._by_namespace.setdefault(policy.namespace, {})[policy.key] = policy

    def remove_policy(self, key: str) -> None:
        """Forget a policy, if it is known."""
        policy = self.policies.pop(key, None)
        if policy is not None:
            self._policies_changed = True
            self._global.pop(key, None)
            _drop(self._by_namespace, policy.namespace, key)

    # -- questions -----------------------------------------------------------------------------------------

    def workload_by_address(self, address: NetworkAddress) -> Workload | None:
        """The workload that has this address.

        If several claim it: a pod before what anybody may declare (WorkloadEntry, ServiceEntry), then one in
        the mesh, then the newest (upstream's src/state/workload.rs, WorkloadByAddr).
        """
        found = reversed(self._by_address.get(address, {}).values())
        return max(found, key=lambda one: ("//Pod/" in one.uid, one.protocol is Tunnel.HBONE), default=None)

    def workload_by_info(self, info: WorkloadInfo) -> Workload | None:
        """The workload behind a pod of this node."""
        candidates = [
            workload
            for workload in self._by_name.get((info.namespace, info.name), {}).values()
            if workload.service_account == info.service_account
        ]
        return max(candidates, key=lambda workload: workload.node == self.local_node, default=None)

    async def wait_for_workload(self, info: WorkloadInfo, timeout: float) -> Workload:
        """The workload behind a pod, waiting up to `timeout` seconds for istiod; raises UnknownWorkload."""
        deadline = asyncio.get_running_loop().time() + timeout
        while (workload := self.workload_by_info(info)) is None:
            remaining = deadline - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError as error:
                log.warning("timed out waiting for workload '%s' from xds", info)
                raise UnknownWorkload(f"failed to fetch information about local workload: {info}") from error
        return workload

    def service_by_vip(self, address: NetworkAddress, namespace: str | None) -> Service | None:
        """The service with this virtual IP that a client in `namespace` means; None: whoever asks.

        Without one that has exactly this address, that of the best range: the client's own namespace comes
        before the narrower one (upstream's src/state/service.rs, get_best_by_vip).
        """
        exact = best_service(self._by_vip.get(address, {}).values(), namespace)
        if exact is not None:
            return exact
        ranges = [
            (service.namespace == namespace, vip.cidr.prefixlen, service.canonical, service)
            for service in self._cidr_services
            if _visible(service, namespace)
            for vip in service.cidr_vips
            if vip.network == address.network and address.address in vip.cidr
        ]
        return max(ranges, key=lambda entry: entry[:3])[3] if ranges else None

    def services_by_host(self, hostname: str) -> list[Service]:
        """All services with this hostname, in any namespace."""
        return list(self._by_host.get(hostname, {}).values())

    def endpoints(self, service: Service) -> list[Workload]:
        """The workloads of a service that may get traffic."""
        found = self._endpoints.get(service.key, {}).values()
        return [workload for workload in found if workload.healthy or service.lb_allow_unhealthy]

    def services_of(self, workload: Workload) -> list[Service]:
        """The services a workload belongs to."""
        return [self.services[key] for key in workload.services if key in self.services]

    def find(self, where: NetworkAddress | HostAddress) -> Workload | Service | None:
        """What is there: at an address rather a workload, at a hostname rather a service."""
        if isinstance(where, NetworkAddress):
            return self.workload_by_address(where) or self.service_by_vip(where, None)
        service = self.services.get(where)
        if service is not None:
            return service
        for workload in self.workloads.values():
            if workload.hostname == where.hostname and workload.namespace == where.namespace:
                return workload
        return None

    def policies_for(self, workload: Workload) -> Iterator[Policy]:
        """All policies for a workload: global, of its namespace, and those that select it.

        A selected policy that has not arrived yet is skipped with a warning, as upstream does (fails open).
        """
        yield from self._by_namespace.get(workload.namespace, {}).values()
        yield from self._global.values()
        for key in workload.policies:
            policy = self.policies.get(key)
            if policy is None:
                log.warning("skipping unknown policy %s", key)
            else:
                yield policy

    def authorize(self, workload: Workload, conn: Connection) -> Verdict:
        """Decide on a connection to `workload`; logs what led to it, and what dry-run policies would have done."""
        verdict = authorize(self.policies_for(workload), conn)
        if log.isEnabledFor(self._policy_log_level):
            for message, policy in verdict.steps:
                log.log(self._policy_log_level, message, extra={"fields": {"policy": policy} if policy else {}})
        return verdict


def best_service(services: Iterable[Service], namespace: str | None) -> Service | None:
    """Of services with one name or address that a client in `namespace` sees: its own, a canonical one, any."""
    visible = [service for service in services if _visible(service, namespace)]
    return max(visible, key=lambda service: (service.namespace == namespace, service.canonical), default=None)


def _visible(service: Service, namespace: str | None) -> bool:
    return namespace is None or not service.namespace_only or service.namespace == namespace


def _drop(index: dict[K, dict[str, V]], key: K, member: str) -> None:
    """Remove one member of an index entry, and the entry with its last member."""
    entry = index.get(key)
    if entry is not None and entry.pop(member, None) is not None and not entry:
        del index[key]

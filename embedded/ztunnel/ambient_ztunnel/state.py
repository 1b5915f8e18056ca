"""What istiod has told this ztunnel: workloads, services and policies, indexed (embedded provider alone)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from .model import HostAddress, NetworkAddress, Policy, Scope, Service, Workload
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
        return f"{self.namespace}/{self.name} ({self.service_account})"


class State:
    """The indexed configuration; changed by the event loop's thread only."""

    def __init__(self, network: str = "", local_node: str = "") -> None:
        self.network = network
        self.local_node = local_node
        self.workloads: dict[str, Workload] = {}
        self.services: dict[HostAddress, Service] = {}
        self.policies: dict[str, Policy] = {}
        self._by_address: dict[NetworkAddress, dict[str, Workload]] = {}
        self._by_name: dict[tuple[str, str], dict[str, Workload]] = {}
        self._endpoints: dict[HostAddress, dict[str, Workload]] = {}
        self._by_vip: dict[NetworkAddress, Service] = {}
        self._by_host: dict[str, dict[str, Service]] = {}
        self._cidr_services: list[Service] = []
        self._global: dict[str, Policy] = {}
        self._by_namespace: dict[str, dict[str, Policy]] = {}
        self._changed: asyncio.Event = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    # -- changes -------------------------------------------------------------------------------------------

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every batch of changes."""
        self._listeners.append(listener)

    def notify(self) -> None:
        """Tell everyone who waits that a batch of changes is complete."""
        self._changed.set()
        self._changed = asyncio.Event()
        for listener in self._listeners:
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
            self._by_vip[vip] = service
        if service.cidr_vips:
            self._cidr_services.append(service)
        self._by_host.setdefault(service.hostname, {})[service.namespace] = service

    def remove_service(self, key: HostAddress) -> bool:
        """Forget a service; False if it was unknown."""
        service = self.services.pop(key, None)
        if service is None:
            return False
        for vip in service.vips:
            if self._by_vip.get(vip) is service:
                del self._by_vip[vip]
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
        self.policies[policy.key] = policy
        if policy.scope is Scope.GLOBAL:
            self._global[policy.key] = policy
        elif policy.scope is Scope.NAMESPACE:
            self._by_namespace.setdefault(policy.namespace, {})[policy.key] = policy

    def remove_policy(self, key: str) -> None:
        """Forget a policy, if it is known."""
        policy = self.policies.pop(key, None)
        if policy is not None:
            self._global.pop(key, None)
            _drop(self._by_namespace, policy.namespace, key)

    # -- questions -----------------------------------------------------------------------------------------

    def workload_by_address(self, address: NetworkAddress) -> Workload | None:
        """The workload that has this address; a healthy one first if several claim it."""
        found = self._by_address.get(address)
        if not found:
            return None
        return max(found.values(), key=lambda workload: workload.healthy)

    def workload_by_info(self, info: WorkloadInfo) -> Workload | None:
        """The workload behind a pod of this node."""
        candidates = [
            workload
            for workload in self._by_name.get((info.namespace, info.name), {}).values()
            if workload.service_account == info.service_account
        ]
        return max(candidates, key=lambda workload: workload.node == self.local_node, default=None)

    async def wait_for_workload(self, info: WorkloadInfo, timeout: float) -> Workload | None:
        """The workload behind a pod, waiting up to `timeout` seconds for istiod to announce it."""
        deadline = asyncio.get_running_loop().time() + timeout
        while (workload := self.workload_by_info(info)) is None:
            remaining = deadline - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(remaining):
                    await self._changed.wait()
            except TimeoutError:
                log.warning("timed out waiting for workload '%s' from xds", info)
                return None
        return workload

    def service_by_vip(self, address: NetworkAddress) -> Service | None:
        """The service with this virtual IP; of address ranges the narrowest wins."""
        exact = self._by_vip.get(address)
        if exact is not None:
            return exact
        ranges = [
            (vip.cidr.prefixlen, service)
            for service in self._cidr_services
            for vip in service.cidr_vips
            if vip.network == address.network and address.address in vip.cidr
        ]
        return max(ranges, key=lambda entry: entry[0])[1] if ranges else None

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
            return self.workload_by_address(where) or self.service_by_vip(where)
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
        """Decide on a connection to `workload`; logs what dry-run policies would have done."""
        verdict = authorize(self.policies_for(workload), conn)
        for key in verdict.dry_run:
            log.info("dry run: policy %s (%s) matches", key, self.policies[key].action.value)
        return verdict


def _drop(index: dict[K, dict[str, V]], key: K, member: str) -> None:
    """Remove one member of an index entry, and the entry with its last member."""
    entry = index.get(key)
    if entry is not None and entry.pop(member, None) is not None and not entry:
        del index[key]

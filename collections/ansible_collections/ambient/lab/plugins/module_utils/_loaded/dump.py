# Says whether a proxy has this very version of an AuthorizationPolicy, from the proxy's own config dump.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._loaded.envoy import difference, filters
from ansible_collections.ambient.lab.plugins.module_utils._loaded.ztunnel import TITLES, form_of_dump, form_of_policy
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object, name_of

State = t.Literal["current", "old", "absent"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a proxy has of a policy: this version (current), another one (old), or nothing (absent); and why not."""

    state: State
    why: str = ""


def ztunnel_has(dump: Object, policy: Object, pods: t.Iterable[Object], root: str) -> Loaded:
    """Whether a ztunnel enforces the policy as it is written now.

    Args:
        dump: ztunnel's /config_dump (port 15000; the keys that `istioctl ztunnel-config` reads,
            istioctl/pkg/writer/ztunnel/configdump/api.go).
        policy: the AuthorizationPolicy; only its metadata where the question is whether it is gone.
        pods: those on ztunnel's node that it selects. A policy with a selector counts for a pod only when the pod's
            workload names it; one of a namespace or of the mesh counts by itself.
        root: the mesh's root namespace.
    """
    name = name_of(policy)
    found = next((item for item in _values(dump, "policies") if _name(item) == name), None)
    if found is None:
        return Loaded("absent", "it has not been given the policy")
    wanted = form_of_policy(policy, root)
    loaded = form_of_dump(found)
    if wanted is None:
        return Loaded("old", "it has a policy of this name that is not for ztunnel any more")
    for title, here, there in zip(TITLES, wanted, loaded, strict=True):
        if here != there and title == "dry run":
            return Loaded(
                "old", "it only tries the policy (dry run)" if there else "it enforces what is only to be tried"
            )
        if here != there:
            return Loaded("old", f"it has a version with another {title}" if title != "rules" else "it has other rules")
    if loaded[0] != "WorkloadSelector":
        return Loaded("current")
    workloads = {_name(item): item for item in _values(dump, "workloads")}
    for pod in pods:
        workload = workloads.get(name_of(pod))
        if workload is None:
            return Loaded("old", f"it has the policy, but does not know pod {name_of(pod)}")
        if name not in (workload.get("authorizationPolicies") or []):
            return Loaded("old", f"it has the policy, but not for pod {name_of(pod)}")
    return Loaded("current")


def waypoint_has(dump: Object, policy: Object) -> Loaded:
    """Whether a waypoint's Envoy enforces the policy as it is written now.

    Compared are the action, the number of rules, and in each rule methods, paths, hosts, ports, addresses, request
    headers, principals, namespaces and ServiceAccounts, with what is excluded of them. Not compared are trust domains,
    to which istiod adds the mesh's aliases, and attributes of JWTs, SNI and Envoy's metadata: a change of these
    alone is not noticed. Of a filter for TCP the HTTP attributes are not compared, because it can't have them.

    Args:
        dump: /config_dump of Envoy's admin port 15000, or its part with the listeners.
        policy: the AuthorizationPolicy; only its metadata where the question is whether it is gone.
    """
    found = filters(dump, str(policy["metadata"].get("namespace", "")), str(policy["metadata"]["name"]))
    if not found:
        return Loaded("absent", "no listener has the policy")
    for item in found:
        if said := difference(policy, item):
            return Loaded("old", f"a listener has another version: {said}")
    return Loaded("current")


def _values(dump: Object, key: str) -> list[Object]:
    """A list of the dump; older ztunnels wrote some of them as maps."""
    found = dump.get(key) or []
    return list(found.values() if isinstance(found, dict) else found)


def _name(item: Object) -> str:
    return f"{item.get('namespace', '')}/{item.get('name', '')}"

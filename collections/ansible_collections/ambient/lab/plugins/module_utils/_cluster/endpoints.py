# Counts what a Service can send its traffic to.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.policies import Object


def ready_endpoints(items: t.Callable[..., list[Object]], namespace: str, service: str) -> int:
    """How many endpoints of a Service are ready.

    Args:
        items: reads a list of the API by its path and query; what it raises comes through.
    """
    slices = items(
        f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices",
        labelSelector=f"kubernetes.io/service-name={service}",
    )
    endpoints = [endpoint for item in slices for endpoint in item.get("endpoints") or []]
    return sum(bool((endpoint.get("conditions") or {}).get("ready", True)) for endpoint in endpoints)

# Names a pod's workload as istiod does, so that what proxies count of it can be found.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import re

from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object

# A label of the user's own name for a workload (istio.io/api, label.ServiceWorkloadName).
WORKLOAD_NAME = "service.istio.io/workload-name"
_HASHES = ("pod-template-hash", "rollouts-pod-template-hash")
_CRON_JOB = re.compile(r"(.+)-\d{8,10}")


def workload_name(pod: Object) -> str:
    """Name of the workload that istiod takes a pod for (istio.io/istio pkg/kube/util.go, GetWorkloadMetaFromPod)."""
    metadata = pod["metadata"]
    labels = metadata.get("labels") or {}
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

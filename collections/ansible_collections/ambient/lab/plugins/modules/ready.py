#!/usr/bin/python
# Waits in one task until many objects of a cluster are ready.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: ready
short_description: Waits until objects of a cluster are ready
version_added: 0.1.0
description:
  - Looks at all O(objects) at once until every one is ready, or O(timeout) ends.
  - An object that does not exist yet is waited for.
  - A Deployment, DaemonSet or StatefulSet is ready when its latest version is rolled out and all of its pods
    are available; one without any pod, for example scaled to 0, is not.
  - A Pod or Node is ready by its condition C(Ready), a GatewayClass by C(Accepted), a Gateway of the Gateway API by
    C(Programmed), a CustomResourceDefinition by C(Established), a Job by C(Complete). A condition of an older
    generation does not count. An object of any other kind is ready when it exists.
  - On failure it says which objects are not ready and why. What the containers wait for, what the scheduler
    says, the last warning, and the end of a crashing container's log.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
  - ambient.lab._attributes.probes
  - ambient.lab._kube
options:
  objects:
    description: What must be ready; an empty list is an error.
    type: list
    elements: dict
    required: true
    suboptions:
      kind:
        description: Kind of the object.
        type: str
        required: true
      api_version:
        description: API version of the object, with its group.
        type: str
        default: v1
      name:
        description:
          - Name of the object.
          - Left out, all objects of the kind must be ready, and there must be at least one. Pods that have
            ended or are being deleted don't count then.
        type: str
      label_selector:
        description: Which of the kind's objects, in the syntax of C(kubectl get --selector).
        type: str
      namespace:
        description: Namespace of the objects, where their kind has one. Left out, a list is of all namespaces.
        type: str
  timeout:
    description: Seconds to wait.
    type: float
    default: 120
  interval:
    description: Seconds between two looks.
    type: float
    default: 0.2
"""

EXAMPLES = r"""
- name: Wait for every node and for the cluster's DNS
  ambient.lab.ready:
    kubeconfig: "{{ lab.kubeconfig }}"
    objects:
      - {kind: Node}
      - {kind: Pod, namespace: kube-system, label_selector: k8s-app=kube-dns}

- name: Wait for the mesh
  ambient.lab.ready:
    kubeconfig: "{{ lab.kubeconfig }}"
    timeout: 180
    objects:
      - {kind: Deployment, api_version: apps/v1, name: istiod, namespace: istio-system}
      - {kind: DaemonSet, api_version: apps/v1, name: ztunnel, namespace: istio-system}
      - {kind: GatewayClass, api_version: gateway.networking.k8s.io/v1, name: istio-waypoint}
"""

RETURN = r"""
elapsed:
  description: Seconds until all objects were ready.
  returned: success
  type: float
  sample: 3.41
resources:
  description: The objects as the API gave them at the last look, in the order of O(objects).
  returned: success
  type: list
  elements: dict
"""


from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import (
    KUBE_SPEC,
    KUBERNETES_IMPORT_ERROR,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._ready.ready import ready

OBJECT_SPEC = {
    "kind": {"type": "str", "required": True},
    "api_version": {"type": "str", "default": "v1"},
    "name": {"type": "str"},
    "label_selector": {"type": "str"},
    "namespace": {"type": "str"},
}
SPEC = {
    **KUBE_SPEC,
    "objects": {"type": "list", "elements": "dict", "required": True, "options": OBJECT_SPEC},
    "timeout": {"type": "float", "default": 120},
    "interval": {"type": "float", "default": 0.2},
}
WORK = Work(SPEC, lambda call: ready(call.params), KUBERNETES_IMPORT_ERROR)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()

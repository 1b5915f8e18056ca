#!/usr/bin/python
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin of the same name, which does the work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kind_cluster
short_description: A Kubernetes cluster in containers, made with kind
version_added: 0.2.0
description:
  - Makes a cluster with C(kind) on Docker, Podman or nerdctl, and shows kind's progress line by line.
  - A cluster that is there is left as it is. Stopped nodes are started, and the kubeconfig is written again where it is
    missing or does not lead to the cluster. kind can't change a cluster, so one that was made with another
    configuration is an error.
  - The configuration is kept in C(kind.yaml) beside O(kubeconfig). A cluster of this name without that file is somebody
    else's. It is not used (an error), and not removed.
  - Runs on the controller. Of kind's engines the one that holds the cluster is used, else the first that answers;
    E(KIND_EXPERIMENTAL_PROVIDER) names one.
  - No kubeconfig but O(kubeconfig) is written.
  - With the cluster its network goes, which kind would leave behind, where it was not there before and nothing else is
    in it.
author:
  - The ambient lab's authors (@ambient-lab)
requirements:
  - kind
  - docker, podman or nerdctl
options:
  state:
    description: Whether the cluster is to be there.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the cluster.
    type: str
    required: true
  kubeconfig:
    description: File that gets the way into the cluster (mode 0600). Its folder is made.
    type: path
    required: true
  config:
    description:
      - Configuration of the cluster, as kind's C(kind.x-k8s.io/v1alpha4) has it. C(kind), C(apiVersion) and C(name) are
        filled in.
      - Without C(nodes) there is one control-plane node.
    type: dict
    default: {}
  image:
    description: Node image, for every node. Left out, each node has its own in O(config), or kind's.
    type: str
  image_archives:
    description:
      - Archives of images, as C(docker save) writes them, for every node. What is there is not loaded again.
    type: list
    elements: path
    default: []
  binary:
    description: The program kind.
    type: path
    default: kind
  minimum_version:
    description: The oldest version of kind that works with O(image).
    type: str
attributes:
  check_mode:
    support: full
    description: Asks the engine and kind what is there, says what would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows what is done.
"""

EXAMPLES = r"""
- name: A cluster with a worker, and a NodePort at hand
  ambient.lab.kind_cluster:
    name: my-lab
    kubeconfig: "{{ playbook_dir }}/.lab/my-lab/kubeconfig"
    config:
      nodes:
        - role: control-plane
          extraPortMappings:
            - {containerPort: 30080, hostPort: 18080, listenAddress: 127.0.0.1}
        - role: worker

- name: Take it away again
  ambient.lab.kind_cluster:
    state: absent
    name: my-lab
    kubeconfig: "{{ playbook_dir }}/.lab/my-lab/kubeconfig"
"""

RETURN = r"""
engine:
  description: The container engine.
  returned: success
  type: str
  sample: docker
"""

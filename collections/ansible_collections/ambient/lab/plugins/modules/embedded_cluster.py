#!/usr/bin/python
# Documentation of the action plugin of the same name, which does the work.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: embedded_cluster
short_description: Build and run a Kubernetes cluster in Linux namespaces
description:
  - Builds the cluster's programs and images from package registries into a cache, where they are not there yet,
    and starts real Kubernetes nodes, each in namespaces of its own. Progress is shown line by line.
  - Checks first for all that would stop it, and names every problem at once.
  - Runs on the controller, as root.
version_added: 0.1.0
author:
  - The ambient lab's authors (@ambient-lab)
options:
  source:
    description: The folder of the project C(ambient-embedded), whose program does the work.
    type: path
    required: true
  state:
    description:
      - V(present) builds what is missing and starts the lab, V(absent) removes it and leaves the cache.
      - V(built) only builds, V(clean) empties the cache, unless a lab runs on what is in it, of any state folder.
    type: str
    choices: [built, clean, present, absent]
    default: present
  name:
    description: The lab's name; it separates labs on one machine. Required when O(state=present) or O(state=absent).
    type: str
  state_dir:
    description:
      - Folder of all labs' own state, on a file system that overlayfs can use.
      - A folder O(name) in it that is not a lab's is neither used nor removed.
    type: path
    required: true
  cache_dir:
    description:
      - Folder of what has been built. It is tagged (C(CACHEDIR.TAG)); one that holds something else, and has no tag, is
        neither used nor emptied.
      - Required when O(state=built), O(state=clean) or O(state=present).
    type: path
  lab_dir:
    description:
      - The lab's folder for the user; gets C(kubeconfig) (mode 0600) and a link C(logs).
      - It tells whose the lab is. A lab of the same name that was made with another one, which is still there, is
        neither changed nor removed. One that runs is not changed either where that folder is gone, unless the
        kubeconfig here is that lab's. Without it O(state=absent) removes anybody's.
      - Required when O(state=present).
    type: path
  forwards:
    description: Host ports that lead to NodePorts.
    type: list
    elements: dict
    default: []
    suboptions:
      host:
        description: Address on the host to listen on.
        type: str
        required: true
      port:
        description: Port on the host.
        type: int
        required: true
      node_port:
        description: NodePort of a Service.
        type: int
        required: true
  workers:
    description:
      - Nodes besides the control plane, which takes no pods then, as with kind; with V(0) it takes them all.
      - A lab can be given more of them, which restarts it, but not fewer.
    type: int
    choices: [0, 1, 2, 3]
    default: 1
  timeout:
    description: How long the API and all nodes may take to become ready, in seconds.
    type: int
    default: 180
  keep_build_files:
    description: Keep downloads and the compiler's files after a build, about 7 GiB, for those who change the parts.
    type: bool
    default: false
  names:
    description:
      - What messages call an option, by its name, for those who set it by a variable of another name; C(absent) names a
        way to remove a lab, C(otherwise) to have another cluster.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Says whether anything would be built or started, and does neither.
    support: full
  diff_mode:
    description: What it builds and starts is no difference of files.
    support: none
"""

EXAMPLES = r"""
- name: A lab of my own
  ambient.lab.embedded_cluster:
    source: "{{ playbook_dir }}/embedded"
    name: my-lab
    state_dir: /var/lib/ambient-lab
    cache_dir: ~root/.cache/ambient-lab
    lab_dir: "{{ playbook_dir }}/.lab/my-lab"
    forwards:
      - {host: 127.0.0.1, port: 18080, node_port: 30080}

- name: Take it away again
  ambient.lab.embedded_cluster:
    source: "{{ playbook_dir }}/embedded"
    state: absent
    name: my-lab
    state_dir: /var/lib/ambient-lab
"""

RETURN = r"""
server:
  description: Address of the cluster's API.
  returned: O(state=present)
  type: str
  sample: https://127.0.0.1:16443
nodes:
  description: Names of the nodes, the control plane's first.
  returned: O(state=present)
  type: list
  elements: str
  sample: [my-lab-control-plane, my-lab-worker]
link:
  description:
    - Where the packets between the nodes pass, as M(ambient.lab.link_encryption) takes it; empty with a single node.
    - The lab has another network namespace each time it is started.
  returned: O(state=present)
  type: dict
  sample: {interface: nodes, network_namespace: /proc/4711/ns/net}
programs:
  description: Folder of the programs, C(kubectl) and C(helm) among them.
  returned: O(state=present)
  type: str
  sample: /root/.cache/ambient-lab/programs-8fde29bab7b3
charts:
  description: Folders of Istio's Helm charts, by name.
  returned: O(state=present)
  type: dict
  sample: {ztunnel: /root/.cache/ambient-lab/sources-299c3184cb9f/charts/ztunnel}
kiali_chart:
  description: Folder of Kiali's Helm chart.
  returned: O(state=present)
  type: str
  sample: /opt/ambient/embedded/kiali/chart
gateway_api_crds:
  description: Files of the Gateway API's custom resource definitions.
  returned: O(state=present)
  type: list
  elements: str
  sample: [/root/.cache/ambient-lab/sources-299c3184cb9f/crds/gateway.networking.k8s.io_gateways.yaml]
registry:
  description: What the names of the lab's images start with.
  returned: O(state=present)
  type: str
  sample: localhost/ambient-lab
tag:
  description: Tag of the lab's images.
  returned: O(state=present)
  type: str
  sample: 4b1c2d3e4f5a
"""

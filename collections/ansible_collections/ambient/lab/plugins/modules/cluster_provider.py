#!/usr/bin/python
# Says which provider a lab has, and what is missing for it.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_provider
short_description: The provider of a lab's cluster
version_added: 0.2.0
description:
  - A lab keeps the provider that it was made with, asking for another one is an error, and its ports.
  - For a new lab V(auto) means V(kind) where a container engine answers and kind, helm and kubectl are there, else
    V(embedded) on Linux as root.
  - Fails with one line that lists all that is missing.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
options:
  provider:
    description: The provider asked for.
    type: str
    choices: [auto, embedded, kind, existing]
    default: auto
  state:
    description: With V(absent), the provider whose cluster is to be removed; nothing is checked then.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the lab.
    type: str
    required: true
  lab_dir:
    description: Folder of the lab.
    type: path
    required: true
  state_dir:
    description: Folder of all embedded labs' own state.
    type: path
    required: true
  kind:
    description: The program kind.
    type: str
    default: kind
  helm:
    description: The program helm.
    type: str
    default: helm
  kubectl:
    description: The program kubectl.
    type: str
    default: kubectl
  node_ports:
    description:
      - Ports of this machine by the NodePort they lead to.
      - Left out, those of the lab; for a new lab V({"30080":18080,"32766":28080}).
    type: dict
  listen_address:
    description: Address of this machine for these ports. Empty, that of the lab; for a new lab V(127.0.0.1).
    type: str
    default: ""
  names:
    description:
      - What messages call an option, by its name, for those who set it by a variable of another name; C(absent) names a
        way to remove the lab.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: Choose the provider
  ambient.lab.cluster_provider:
    name: my-lab
    lab_dir: "{{ playbook_dir }}/.lab/my-lab"
    state_dir: /var/lib/ambient-lab
"""

RETURN = r"""
provider:
  description: The provider, empty where there is nothing to remove.
  returned: success
  type: str
  sample: kind
listen_address:
  description: Address of this machine on which the lab's ports listen.
  returned: success
  type: str
  sample: 127.0.0.1
node_ports:
  description: Ports of this machine that lead into the lab, by their NodePort.
  returned: success
  type: dict
  sample: {"30080": 18080}
node_urls:
  description: Addresses of the same ports, by their NodePort.
  returned: success
  type: dict
  sample: {"30080": "http://127.0.0.1:18080"}
"""

import os
import platform
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work
from ansible_collections.ambient.lab.plugins.module_utils._common.programs import Programs
from ansible_collections.ambient.lab.plugins.module_utils._lab.cluster_provider import SPEC, Machine, choose, ports


def run(call: Call) -> dict[str, t.Any]:
    """Choose the provider for this machine."""
    machine = Machine(Programs(lambda line: None), os.environ, platform.system(), os.geteuid() == 0)
    return {"provider": choose(call.params, machine), **ports(call.params)}


WORK = Work(SPEC, run)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()

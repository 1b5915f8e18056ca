#!/usr/bin/python
# Writes the facts of a lab, which ambient.lab.lab_info reads.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_facts
short_description: Writes the facts of a lab for M(ambient.lab.lab_info)
version_added: 0.3.0
description:
  - Writes C(lab.json) into the folder of a lab, readable by its owner only. What is there already is not touched.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes.changes
options:
  lab_dir:
    description: Folder of the lab.
    type: path
    required: true
  facts:
    description: Provider, kubeconfig, charts, images and addresses of the lab.
    type: dict
    required: true
seealso:
  - module: ambient.lab.lab_info
"""

EXAMPLES = r"""
- name: Write the lab's facts
  ambient.lab.lab_facts:
    lab_dir: "{{ lab_dir }}"
    facts: {provider: existing, cluster_name: staging, kubeconfig: /etc/staging/kubeconfig}
"""

RETURN = r"""
ansible_facts:
  description: The facts, in check mode those that would be written.
  returned: success
  type: dict
  contains:
    lab:
      description: O(facts).
      returned: success
      type: dict
      sample: {"provider": "existing", "cluster_name": "staging"}
"""

import json
import os
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.files import diff_of, put
from ansible_collections.ambient.lab.plugins.module_utils._common.module import Call, Work

SPEC: dict[str, dict[str, t.Any]] = {
    "lab_dir": {"type": "path", "required": True},
    "facts": {"type": "dict", "required": True},
}


def run(call: Call) -> dict[str, t.Any]:
    """Write the file where it differs."""
    path = os.path.join(call.params["lab_dir"], "lab.json")
    content = json.dumps(call.params["facts"], indent=4, sort_keys=True) + "\n"
    before = put("lab_dir", path, content, call.check_mode, 0o600)
    diff = {"diff": diff_of(path, before, content)} if call.diff else {}
    return {"changed": before != content, "ansible_facts": {"lab": call.params["facts"]}, **diff}


WORK = Work(SPEC, run)


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()

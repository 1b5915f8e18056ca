#!/usr/bin/python
# Draws a traffic graph of Kiali as a picture.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: graph_picture
short_description: Draws a traffic graph of Kiali as an SVG picture
version_added: 0.1.0
description:
  - Draws what Kiali has answered, with namespaces, protocols, rates, response codes and mTLS, and without asking
    anybody anything.
  - Edges that a claim has proven to be absent are drawn as dotted lines with a cross. Edges with 4xx or 5xx are dashed.
  - The same answer gives the same file, byte for byte.
author:
  - The ambient lab's authors (@ambient-lab)
attributes:
  check_mode:
    support: full
    description: Draws, but writes nothing.
  diff_mode:
    support: full
    description: Shows the picture's source.
options:
  results_file:
    description:
      - JSON file in which M(ambient.lab.kiali_graph) has kept its results. Needs O(section). The claims that held
        without an edge give the absent ones.
      - Exactly one of this and O(answer) is needed.
    type: path
  section:
    description: Name under which the results are kept.
    type: str
  phase:
    description: Which of the kept graphs to draw.
    type: str
    choices: [before, after]
    default: after
  answer:
    description: An answer of Kiali's C(api/namespaces/graph), as it is.
    type: dict
  absent:
    description:
      - Further pairs between which there is no traffic, each a dict of C(from) and C(to), written as in the claims of
        M(ambient.lab.kiali_graph).
    type: list
    elements: dict
    default: []
  namespace:
    description: Namespace of the names in O(absent) that have none.
    type: str
    default: default
  path:
    description: SVG file to write. Its folder must exist.
    type: path
    required: true
  title:
    description: Above the picture.
    type: str
    required: true
seealso:
  - module: ambient.lab.kiali_graph
"""

EXAMPLES = r"""
- name: Draw what the L4 policy has left
  ambient.lab.graph_picture:
    results_file: "{{ lab_dir }}/results.json"
    section: l4
    phase: after
    path: "{{ lab_dir }}/l4-after.svg"
    title: "L4 policy: curl-deny is cut off"

- name: Draw an answer that was kept elsewhere
  ambient.lab.graph_picture:
    answer: "{{ lookup('ansible.builtin.file', 'graph.json') | from_json }}"
    absent:
      - {from: curl-deny, to: {service: sample-app}}
    path: graph.svg
    title: Traffic in the namespace default
"""

RETURN = r"""
path:
  description: The file.
  returned: success
  type: str
nodes:
  description: How many nodes Kiali's answer has.
  returned: success
  type: int
  sample: 4
edges:
  description: How many edges it has.
  returned: success
  type: int
  sample: 3
"""

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._common.module import Work
from ansible_collections.ambient.lab.plugins.module_utils._graph.graph_picture import picture

SPEC: dict[str, dict[str, t.Any]] = {
    "results_file": {"type": "path"},
    "section": {"type": "str"},
    "phase": {"type": "str", "choices": ["before", "after"], "default": "after"},
    "answer": {"type": "dict"},
    "absent": {"type": "list", "elements": "dict", "default": []},
    "namespace": {"type": "str", "default": "default"},
    "path": {"type": "path", "required": True},
    "title": {"type": "str", "required": True},
}
WORK = Work(SPEC, lambda call: picture(call.params, call.check_mode, call.diff))


def main() -> None:
    """Entry point of the module."""
    WORK.main()


if __name__ == "__main__":
    main()

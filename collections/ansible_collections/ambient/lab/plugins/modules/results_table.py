#!/usr/bin/python
# Documentation of the action plugin that prints what was proven.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: results_table
short_description: Prints what was proven, before and after
version_added: 0.1.0
description:
  - Prints one table with a row per claim. What was seen before the policy and after it (HTTP code and exit
    code of curl), which proxy decided, and how long it took until all claims of the section held.
  - The rows of M(ambient.lab.kiali_graph) follow, with the edge that was seen.
  - Runs on the controller.
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
options:
  results_file:
    description: JSON file that M(ambient.lab.curl_outcomes) and M(ambient.lab.kiali_graph) have written.
    type: path
    required: true
seealso:
  - module: ambient.lab.curl_outcomes
  - module: ambient.lab.kiali_graph
"""

EXAMPLES = r"""
- name: Show what was proven
  ambient.lab.results_table:
    results_file: "{{ lab_dir }}/results.json"
"""

RETURN = r"""
table:
  description: Lines of the table.
  returned: success
  type: list
  elements: str
"""

#!/usr/bin/python
# Documentation of the action plugin that prints and writes the report.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: claims_report
short_description: Prints what was proven, and writes it as a page, as JUnit XML and as JSON
version_added: 0.1.0
description:
  - Prints a table of what the modules of this collection have kept. Of one cluster it shows what was seen before the
    policy and after it, which proxy decided by which policy, how long it took until all claims of the section held, and
    how long ago that was where an earlier run has done it.
  - Of a fleet it shows the claims of the clusters that are alike once, and of the others what differs from that.
  - Writes the same as a page, as JUnit XML and as JSON, as far as files are named.
  - The page is one HTML file that loads nothing. It shows who called whom before and after each policy as a grid,
    every witness of every claim, how fast a policy took hold, the generated matrix, and Kiali's graphs. It is complete
    without JavaScript and without colours.
  - The same results give the same files, byte for byte.
  - Runs on the controller.
author:
  - The ambient lab's authors (@ambient-lab)
attributes:
  check_mode:
    support: full
    description: Reads and lays out everything, but writes nothing.
  diff_mode:
    support: full
    description: Shows the files' text.
options:
  results:
    description: One item per cluster.
    type: list
    elements: dict
    required: true
    suboptions:
      cluster:
        description: Name of the cluster, as the report shows it.
        type: str
        required: true
      path:
        description:
          - JSON file that M(ambient.lab.curl_outcomes), M(ambient.lab.kiali_graph) and others have written for this
            cluster.
        type: path
        required: true
  title:
    description: Above the report.
    type: str
    default: Who may call whom
  html:
    description: HTML file to write. Its folder must exist.
    type: path
  junit:
    description:
      - JUnit XML file to write, with a suite per cluster and section, and a test case per claim and per measured pair.
        A claim that does not hold is a C(failure), one without a proof an C(error), one that was not checked here and
        now is C(skipped).
    type: path
  json:
    description: JSON file to write, with each cluster's results as O(results[].path) has them, and what they add up to.
    type: path
  schema:
    description: JSON schema to write, of O(json) and of what O(results[].path) has.
    type: path
  fail_on:
    description:
      - With V(fail) the task fails where a check does not hold, after it has written everything. By default the report
        is a success whatever it says.
    type: str
    choices: [never, fail]
    default: never
seealso:
  - module: ambient.lab.curl_outcomes
  - module: ambient.lab.kiali_graph
  - module: ambient.lab.graph_picture
"""

EXAMPLES = r"""
- name: Show what was proven
  ambient.lab.claims_report:
    results:
      - {cluster: my-lab, path: "{{ lab_dir }}/results.json"}

- name: Write the report of one lab
  ambient.lab.claims_report:
    results:
      - {cluster: my-lab, path: "{{ lab_dir }}/results.json"}
    html: report/index.html
    junit: report/junit.xml
    json: report/report.json

- name: Compare two clusters, and fail where a claim does not hold
  ambient.lab.claims_report:
    title: Staging and production
    results:
      - {cluster: staging, path: results/staging.json}
      - {cluster: production, path: results/production.json}
    html: report/fleet.html
    fail_on: fail
"""

RETURN = r"""
verdict:
  description: V(pass) when everything holds; else the worst of what does not, V(fail) or V(error).
  returned: success
  type: str
  sample: pass
counts:
  description:
    - How many claims and measured pairs pass, fail and are errors, counted once per cluster; how many sections were not
      stable; how many claims were not checked on a cluster while they were on another, or not after the policy.
  returned: success
  type: dict
  sample: {"pass": 37, "fail": 1, "error": 0, "unstable": 0, "unchecked": 0}
table:
  description: Lines of the table.
  returned: success
  type: list
  elements: str
"""

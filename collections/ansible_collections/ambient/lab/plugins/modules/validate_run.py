#!/usr/bin/python
# Documentation of the action plugin of the same name, which does the work.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_run
short_description: Refuses tags and variables that nobody knows
description:
  - Ansible ignores a tag that no task has, and an extra variable that nobody uses. A spelling mistake is a green run
    then, which did nothing, or did it elsewhere.
  - Known tags (C(--tags), C(--skip-tags)) are those of the playbooks on the command line.
  - Known variables (C(-e)) are those in the argument specifications of the roles in C(roles_path), in the inventory,
    and in the plays. So are those that begin with C(ansible_), C(awx_), C(tower_) or C(molecule_), and those that
    another extra variable uses.
  - It belongs into the first play of a playbook, with the tag C(always).
version_added: 0.3.0
author:
  - The ambient lab's authors (@ambient-lab)
extends_documentation_fragment:
  - ambient.lab._attributes
options:
  group:
    description: A group that must have a host.
    type: str
"""

EXAMPLES = r"""
- name: Refuse unknown tags and variables
  ambient.lab.validate_run:
    group: lab
  run_once: true
  tags: [always]
"""

RETURN = r""" # """

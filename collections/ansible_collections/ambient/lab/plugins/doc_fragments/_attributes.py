# What the collection's modules have in common: they look, and change nothing.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Documentation shared by every module of the collection."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Runs in check mode as it does otherwise, because it changes nothing.
  diff_mode:
    support: none
    description: There is nothing to show, because nothing is changed.
"""

    PROBES = r"""
options: {}
attributes:
  action_group:
    support: full
    description: Use C(group/ambient.lab.probes) in C(module_defaults) to name the cluster once.
    membership:
      - ambient.lab.probes
"""

    CHANGES = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Says what it would change, and changes nothing.
  diff_mode:
    support: full
    description: Shows what changes.
"""

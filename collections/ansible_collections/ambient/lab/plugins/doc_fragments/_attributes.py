# Attributes that many modules of the collection share: of those that only look, and of those that change something.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Check mode, diff mode and the action group, as modules have them."""

    DOCUMENTATION = r"""
options: {}
attributes:
  check_mode:
    support: full
    description: Looks in check mode as it does otherwise, because that changes nothing. A results file is not written.
  diff_mode:
    support: none
    description: There is nothing to show, because it only looks.
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

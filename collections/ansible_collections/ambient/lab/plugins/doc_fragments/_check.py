# Options of the modules that check claims; the same options as module_utils/_check/curl_outcomes.py CHECK_SPEC.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the options that say how claims are checked, and where results are kept."""

    DOCUMENTATION = r"""
options:
  phase:
    description: Whether the claims' policy is not yet there, or is.
    type: str
    choices: [before, after]
    default: after
  probe_timeout:
    description: Seconds that one request may take.
    type: float
    default: 5
  concurrency:
    description: Pods in which requests are made at the same time, at most 64.
    type: int
    default: 8
  results_file:
    description:
      - JSON file in which the results are kept under O(section), before and after side by side by the
        claims' names. Modules that are given the same section keep theirs beside each other.
      - A check that fails is kept too. Not written in check mode. Its folder must exist.
    type: path
  section:
    description: Name under which the results are kept, for example that of the policy.
    type: str
"""

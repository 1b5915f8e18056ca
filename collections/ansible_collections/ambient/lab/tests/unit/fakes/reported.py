# The report of results, and its sections.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.plugin_utils._report.model import Given, report_of
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object


def report(**clusters: Object) -> Object:
    """The report of these clusters."""
    return report_of("A title", [Given(name, f"{name}.json", results) for name, results in clusters.items()])


def section(found: Object, name: str = "s") -> Object:
    """A section of the report."""
    return next(one for one in found["sections"] if one["name"] == name)

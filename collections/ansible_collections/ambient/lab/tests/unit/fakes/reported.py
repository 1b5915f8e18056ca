# The report of results.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.module_utils._results.codec import load
from ansible_collections.ambient.lab.plugins.module_utils._results.model import Report, Section
from ansible_collections.ambient.lab.plugins.plugin_utils._report.view import Claim, claims_of, report_of
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object


def report(**clusters: Object) -> Report:
    """The report of these clusters."""
    return report_of("A title", {name: load(dict[str, Section], results) for name, results in clusters.items()})


def claims(found: Report) -> list[Claim]:
    """The claims of a report, those that are alike together."""
    return claims_of({cluster.name: cluster.sections for cluster in found.clusters})

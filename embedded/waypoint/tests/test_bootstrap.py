# For the embedded provider alone: the bootstrap template is changed as far as it must be, or the build fails.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A small template of our own with the shapes of Istio's; the image build checks the real one."""

from __future__ import annotations

import json

import pytest
from bootstrap import TemplateError, derive

DISCOVERY = '{{- if .metadata_discovery }}\n{"name": "m", "typed_config": {"value": {"ads": {}}}},\n{{- end }}\n'
ADMIN = '"socket_address": {"address": "{{ .localhost }}", "port_value": {{ .config.ProxyAdminPort }}}'
STATS = f'"cluster_name": "prometheus_stats", "endpoints": [{{"address": {{{ADMIN}}}}}]'
OTHER = f'"admin": {{{ADMIN}}}'
PATH = '"path": "{{ .config.ConfigPath }}/XDS"'
TEMPLATE = f'{{"extensions": [\n{DISCOVERY} 1 ], "other": "{{{{ .kept }}}}", {PATH}, {STATS}, {OTHER} }}'


def test_the_discovery_extension_goes_and_the_sockets_are_ours() -> None:
    derived = derive(TEMPLATE).replace("{{ .config.ProxyAdminPort }}", "15000")
    assert json.loads(derived) == {
        "extensions": [1],
        "other": "{{ .kept }}",
        "path": "{{ .config.ConfigPath }}/XDS-relay",
        "cluster_name": "prometheus_stats",
        "endpoints": [{"address": {"pipe": {"path": "{{ .config.ConfigPath }}/metrics"}}}],
        "admin": {"socket_address": {"address": "{{ .localhost }}", "port_value": 15000}},
    }


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (f"{{ {PATH} }}", "metadata_discovery"),
        (TEMPLATE.replace('"m"', '"{{ .nested }}"'), "metadata_discovery"),
        (TEMPLATE + DISCOVERY.replace("{{- end }}", "{{ .x }}{{- end }}"), "metadata_discovery"),
        (TEMPLATE.replace("/XDS", "/ADS"), "found 0"),
        (TEMPLATE + PATH, "found 2"),
        (TEMPLATE.replace("prometheus_stats", "agent"), "prometheus_stats at the admin interface, found 0"),
        (TEMPLATE.replace(STATS, f'"cluster_name": "prometheus_stats", "cluster_name": "agent", {ADMIN}'), "found 0"),
        (TEMPLATE.replace(".config.ProxyAdminPort", ".config.StatusPort"), "found 0"),
        (TEMPLATE + STATS, "prometheus_stats at the admin interface, found 2"),
        (TEMPLATE.replace("1 ]", '"type.googleapis.com/istio.workload.More" ]'), "istio.workload.More"),
        (TEMPLATE.replace("1 ]", '"type.googleapis.com/stats.PluginConfig" ]'), "stats.PluginConfig"),
    ],
)
def test_a_template_of_another_shape_is_refused(template: str, reason: str) -> None:
    with pytest.raises(TemplateError, match=reason):
        derive(template)

# For the embedded provider alone: lets upstream Envoy run as a waypoint under an unmodified pilot-agent.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What pilot-agent starts as `/usr/local/bin/envoy`: it starts xDS relay and metrics exporter, then the real Envoy.

```
istiod <-- TLS --> pilot-agent <-- ConfigPath/XDS --> relay <-- ConfigPath/XDS-relay --> Envoy
Prometheus --> pilot-agent :15020 --> Envoy :15090 --> ConfigPath/metrics: exporter --> Envoy's admin interface
                                                    Envoy --> ConfigPath/requests --> exporter
```
`launcher` starts and ends Envoy, `relay` moves the messages, `rewrite` changes Listeners, `extensions` says what this
Envoy has. `telemetry` says what Envoy writes of each request, `records` reads it, `metrics` counts it, and `exporter`
moves the bytes.
Where everything lies in the image is in `embedded/ambient_embedded/parts.py`.
"""

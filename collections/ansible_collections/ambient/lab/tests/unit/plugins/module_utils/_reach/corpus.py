# Policies, valid and broken, in a small mesh, each with what the lint must find; written after Istio's documentation.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

# `plain` has no waypoint, `app` has one (and a policy that lets it alone in), all plain text is refused.
WORLD = """
- {kind: Namespace, metadata: {name: istio-system}}
- {kind: Namespace, metadata: {name: shop, labels: {istio.io/dataplane-mode: ambient}}}
- {kind: Namespace, metadata: {name: bare, labels: {istio.io/dataplane-mode: ambient}}}
- {kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: "trustDomainAliases: [old.example]"}}
- kind: Deployment
  metadata: {name: istiod, namespace: istio-system, labels: {app: istiod, app.kubernetes.io/version: VERSION}}
- {kind: PeerAuthentication, metadata: {name: all, namespace: istio-system}, spec: {mtls: {mode: MODE}}}
- kind: Deployment
  metadata: {name: plain, namespace: shop}
  spec:
    template:
      metadata: {labels: {app: plain, tier: back}}
      spec: {serviceAccountName: plain, containers: [{name: a, ports: [{containerPort: 8080}]}]}
- kind: Deployment
  metadata: {name: app, namespace: shop}
  spec:
    template:
      metadata: {labels: {app: app, tier: back}}
      spec: {serviceAccountName: app, containers: [{name: a, ports: [{containerPort: 8080}]}]}
- kind: Service
  metadata: {name: plain, namespace: shop}
  spec: {selector: {app: plain}, ports: [{name: http, port: 80, targetPort: 8080}]}
- kind: Service
  metadata: {name: app, namespace: shop, labels: {istio.io/use-waypoint: wp}}
  spec: {selector: {app: app}, ports: [{name: http, port: 80, targetPort: 8080}]}
- kind: Service
  metadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: gone}}
  spec: {ports: [{port: 1}]}
- kind: Gateway
  metadata: {name: wp, namespace: shop}
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
- kind: Gateway
  metadata: {name: idle, namespace: shop}
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
- {kind: Gateway, metadata: {name: ingress, namespace: shop}, spec: {gatewayClassName: istio, listeners: []}}
- kind: ServiceEntry
  metadata: {name: outer, namespace: shop, labels: {istio.io/use-waypoint: wp}}
  spec: {hosts: [outer.example], addresses: [192.0.2.1], ports: [{number: 443, name: tls, protocol: TLS}]}
"""
GUARD = "{selector: {matchLabels: {app: app}}, rules: [{from: [{source: {serviceAccounts: [wp]}}]}]}"

# What stands behind `{binding}`: at ztunnel, and at the waypoint of the Service.
L4 = "selector: {matchLabels: {app: plain}}"
L7 = "targetRefs: [{kind: Service, group: '', name: app}]"
# Short words in what follows.
WORDS = {
    "L4": L4,
    "L7": L7,
    "GATEWAY": "kind: Gateway, group: gateway.networking.k8s.io",
    "CLASS": "kind: GatewayClass, group: gateway.networking.k8s.io",
    "HEADER": "key: 'request.headers[x]'",
}

# A source, an operation or a condition; fine at ztunnel ("4"), at a waypoint ("7"), or at both.
SOURCES = """
47 principals: [cluster.local/ns/shop/sa/client]
47 principals: ['cluster.local/ns/shop/*']
47 principals: ['*/sa/client']
47 principals: ['*']
47 notPrincipals: [cluster.local/ns/shop/sa/client]
47 namespaces: [shop]
47 namespaces: ['team-*', '*-prod', '*']
 7 namespaces: ['a*b']
47 notNamespaces: [shop]
47 serviceAccounts: [client, shop/client]
47 notServiceAccounts: [client]
47 ipBlocks: [10.0.0.0/8, 192.0.2.1]
47 notIpBlocks: ['2001:db8::/32']
 7 remoteIpBlocks: [10.0.0.0/8]
 7 requestPrincipals: ['https://issuer.example/*']
 7 notRequestPrincipals: ['*']
 7 trustDomains: [cluster.local]
 7 principals: [old.example/ns/shop/sa/client]
47 principals: [cluster.local/ns/shop/sa/client], notNamespaces: [other]
"""
OPERATIONS = """
4  ports: ['8080']
4  notPorts: ['8080']
4  ports: ['9090']
 7 ports: ['80']
 7 methods: [GET, POST]
 7 methods: ['*']
 7 methods: ['P*']
 7 notMethods: [DELETE]
 7 paths: [/api, '/api/*', '*/health', '*']
 7 paths: ['/a/{*}/b', '/a/{**}']
 7 notPaths: [/admin]
 7 hosts: [app.shop, 'app.shop:*', '*.example']
 7 methods: [GET], paths: [/api], ports: ['80']
"""
CONDITIONS = """
47 {key: source.ip, values: [10.0.0.0/8]}
47 {key: source.namespace, notValues: [shop]}
47 {key: source.principal, values: [cluster.local/ns/shop/sa/client]}
47 {key: destination.ip, values: [10.0.0.0/8]}
4  {key: destination.port, values: ['8080']}
 7 {key: source.serviceAccount, values: [client]}
 7 {key: remote.ip, values: [10.0.0.0/8]}
 7 {key: 'request.headers[x-team]', values: [blue, 'b*']}
 7 {key: 'request.auth.claims[group]', values: [admin]}
 7 {key: connection.sni, values: [app.shop]}
"""

# namespace, spec, and what must be found.
VALID = """
shop|{rules: []}|
shop|{}|
shop|{action: ALLOW, rules: [{}]}|
shop|{action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}|
istio-system|{action: DENY, rules: [{from: [{source: {namespaces: [evil]}}]}]}|
istio-system|{selector: {matchLabels: {app: plain}}, action: DENY, rules: [{to: [{operation: {ports: ['9090']}}]}]}|
istio-system|{targetRefs: [{CLASS, name: istio-waypoint}], rules: [{}]}|
shop|{targetRefs: [{GATEWAY, name: wp}], rules: [{to: [{operation: {methods: [GET]}}]}]}|
shop|{targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: outer}], rules: [{}]}|
shop|{targetRefs: [{GATEWAY, name: ingress}], rules: [{to: [{operation: {methods: [get]}}]}]}|
shop|{targetRef: {kind: Service, group: core, name: app}, action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}|
shop|{targetRefs: [{kind: Service, name: app}], action: AUDIT, rules: [{}]}|
shop|{L7, action: CUSTOM, provider: {name: a}, rules: [{to: [{operation: {paths: [/a]}}]}]}|
bare|{selector: {matchLabels: {app: elsewhere}}, rules: [{}]}|
bare|{targetRefs: [{kind: Service, name: elsewhere}], rules: [{}]}|
shop|{L4, rules: [{from: [{source: {namespaces: [a]}}]}, {from: [{source: {namespaces: [b]}}]}]}|
"""
BROKEN = """
shop|{selector: {matchLabels: {app: plane}}, rules: [{}]}|selector-matches-nothing
istio-system|{selector: {matchLabels: {app: plane}}, rules: [{}]}|selector-matches-nothing
shop|{selector: {}, rules: [{}]}|selector-empty
shop|{selector: {matchLabels: {}}, rules: [{}]}|selector-empty
shop|{selector: {matchLabels: {gateway.networking.k8s.io/gateway-name: wp}}, rules: [{}]}|selector-on-waypoint
shop|{targetRefs: [{kind: Service, name: ap}], rules: [{}]}|target-missing
shop|{targetRefs: [{GATEWAY, name: none}], rules: [{}]}|target-missing
shop|{targetRefs: [{CLASS, name: istio-waypoint}], rules: [{}]}|target-missing
istio-system|{targetRefs: [{CLASS, name: istio}], rules: [{}]}|target-missing
shop|{targetRefs: [{kind: ServiceEntry, group: networking.istio.io, name: inner}], rules: [{}]}|target-missing
shop|{targetRefs: [{kind: Service, name: plain}], rules: [{}]}|target-without-waypoint
shop|{targetRefs: [{kind: Service, name: lost}], rules: [{}]}|target-without-waypoint
shop|{targetRefs: [{GATEWAY, name: idle}], rules: [{}]}|target-without-waypoint
shop|{L4, rules: [{to: [{operation: {methods: [GET]}}]}]}|http-at-ztunnel
shop|{L4, action: DENY, rules: [{to: [{operation: {methods: [POST]}}]}]}|http-at-ztunnel
shop|{L4, action: DENY, rules: [{to: [{operation: {methods: [POST], ports: ['8080']}}]}]}|http-at-ztunnel
shop|{L4, action: DENY, rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {hosts: [a]}}]}]}|http-at-ztunnel
shop|{L4, action: DENY, rules: [{when: [{HEADER, values: [a]}]}]}|http-at-ztunnel
shop|{L4, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}|http-at-ztunnel
shop|{L4, rules: [{when: [{key: source.serviceAccount, values: [client]}]}]}|http-at-ztunnel
shop|{L4, rules: [{when: [{key: connection.sni, values: [a]}]}]}|http-at-ztunnel
shop|{rules: [{to: [{operation: {hosts: [a]}}]}, {from: [{source: {serviceAccounts: [wp]}}]}]}|http-at-ztunnel
shop|{L4, action: AUDIT, rules: [{}]}|action-at-ztunnel
shop|{L4, action: CUSTOM, provider: {name: a}, rules: [{}]}|action-at-ztunnel
shop|{L4, rules: [{to: [{operation: {ports: ['80']}}]}]}|service-port
shop|{L4, action: DENY, rules: [{when: [{key: destination.port, values: ['80']}]}]}|service-port
shop|{L7, rules: [{to: [{operation: {ports: ['8080']}}]}]}|workload-port
shop|{L4, rules: [{from: [{source: {principals: ['spiffe://cluster.local/ns/shop/sa/client']}}]}]}|spiffe-prefix
shop|{L7, rules: [{when: [{key: source.principal, values: ['spiffe://cluster.local/ns/shop/sa/a']}]}]}|spiffe-prefix
shop|{L4, rules: [{from: [{source: {principals: [other.example/ns/shop/sa/client]}}]}]}|foreign-trust-domain
shop|{L4, rules: [{from: [{source: {principals: [old.example/ns/shop/sa/client]}}]}]}|foreign-trust-domain
shop|{L7, rules: [{from: [{source: {principals: [other.example/ns/shop/sa/client]}}]}]}|foreign-trust-domain
shop|{L4, rules: [{from: [{source: {principals: ['cluster.local/ns/*/sa/client']}}]}]}|inner-star
shop|{L4, rules: [{from: [{source: {namespaces: ['a*b']}}]}]}|inner-star
shop|{L7, rules: [{to: [{operation: {paths: ['/a/*/b']}}]}]}|inner-star
shop|{L7, rules: [{to: [{operation: {hosts: ['*.shop.*']}}]}]}|inner-star
shop|{L7, rules: [{to: [{operation: {methods: [get]}}]}]}|method-case
shop|{L7, action: DENY, rules: [{to: [{operation: {notMethods: [Get]}}]}]}|method-case
shop|{L4, rules: [{from: [{source: {trustDomains: [cluster.local]}}]}]}|trust-domains-at-ztunnel
shop|{rules: [{from: [{source: {namespaces: [other]}}]}], selector: {matchLabels: {app: app}}, action: ALLOW}|
shop|{action: DENY, rules: [{from: [{source: {notNamespaces: [other]}}]}]}|waypoint-forgotten
shop|{action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]}|waypoint-forgotten
shop|{L4, rules: [{from: [{source: {namespaces: [a, b]}}]}, {from: [{source: {namespaces: [a]}}]}]}|shadowed-rule
shop|{L4, rules: [{from: [{source: {namespaces: [a]}}]}, {from: [{source: {namespaces: [a]}}]}]}|shadowed-rule
shop|{L4, rules: [{}, {to: [{operation: {ports: ['8080']}}]}]}|shadowed-rule
shop|{L7, rules: [{to: [{operation: {paths: ['/a*']}}]}, {to: [{operation: {paths: [/a], hosts: [b]}}]}]}|shadowed-rule
shop|{L7, action: DENY, rules: [{when: [{HEADER, values: ['*']}]}, {when: [{HEADER, values: [a]}]}]}|shadowed-rule
"""

# Policies, valid and broken, in a small mesh, each with what the lint must find; written after Istio's documentation.
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
  metadata: {name: lost, namespace: shop, labels: {istio.io/use-waypoint: pods}}
  spec: {ports: [{port: 1}]}
- kind: Service
  metadata: {name: afar, namespace: shop, labels: {istio.io/use-waypoint: elsewhere}}
  spec: {ports: [{port: 1}]}
- kind: Service
  metadata: {name: raw, namespace: shop, labels: {istio.io/use-waypoint: wp}}
  spec: {selector: {app: raw}, ports: [{name: tcp, port: 5432}]}
- kind: Service
  metadata: {name: both, namespace: shop, labels: {istio.io/use-waypoint: wp}}
  spec:
    selector: {app: both}
    ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp, port: 5432}, {port: 81, name: sniffed}]
- kind: CronJob
  metadata: {name: nightly, namespace: shop}
  spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: nightly}}, spec: {containers: [{name: a}]}}}}}
- kind: Rollout
  metadata: {name: canary, namespace: shop}
  spec: {template: {metadata: {labels: {app: canary}}, spec: {containers: [{name: a}]}}}
- kind: StatefulSet
  metadata: {name: db, namespace: shop}
  spec: {template: {metadata: {labels: {app: db}}, spec: {containers: [{name: a}]}}}
# Its Namespace is labelled by kubectl.
- kind: Deployment
  metadata: {name: productpage, namespace: book}
  spec: {template: {metadata: {labels: {app: productpage}}, spec: {containers: [{name: a}]}}}
- kind: Service
  metadata: {name: productpage, namespace: book}
  spec: {selector: {app: productpage}, ports: [{name: http, port: 9080}]}
- kind: Gateway
  metadata: {name: wp, namespace: book}
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
- {kind: Namespace, metadata: {name: side, labels: {istio-injection: enabled}}}
- {kind: Namespace, metadata: {name: two, labels: {istio-injection: enabled, istio.io/dataplane-mode: ambient}}}
- kind: Deployment
  metadata: {name: two, namespace: two}
  spec: {template: {metadata: {labels: {app: two}}, spec: {containers: [{name: a}]}}}
- kind: Deployment
  metadata: {name: own, namespace: own}
  spec:
    template: {metadata: {labels: {app: own, sidecar.istio.io/inject: "true"}}, spec: {containers: [{name: a}]}}
- kind: Gateway
  metadata: {name: pods, namespace: shop, labels: {istio.io/waypoint-for: workload}}
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
- kind: Gateway
  metadata: {name: wp, namespace: shop}
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
- kind: Gateway
  metadata: {name: idle, namespace: shop}
  spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
- {kind: Gateway, metadata: {name: ingress, namespace: shop}, spec: {gatewayClassName: istio, listeners: []}}
- kind: ServiceEntry
  metadata: {name: outer, namespace: shop, labels: {istio.io/use-waypoint: wp}}
  spec:
    hosts: [outer.example]
    addresses: [192.0.2.1]
    ports: [{number: 443, name: tls, protocol: TLS, targetPort: 8443}]
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
    "RAW": "targetRefs: [{kind: Service, name: raw}]",
    "BOTH": "targetRefs: [{kind: Service, name: both}]",
    "OUTER": "{kind: ServiceEntry, group: networking.istio.io, name: outer}",
    "FROM ": "from: [{source: ",
    "TO ": "to: [{operation: ",
    "IP": "key: source.ip",
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
book|{targetRefs: [{kind: Service, name: productpage}], rules: [{to: [{operation: {methods: [GET]}}]}]}|
book|{targetRefs: [{GATEWAY, name: wp}], rules: [{to: [{operation: {methods: [GET]}}]}]}|
book|{selector: {matchLabels: {app: productpage}}, rules: [{to: [{operation: {methods: [GET]}}]}]}|
gone|{selector: {matchLabels: {istio: ingress}}, action: CUSTOM, provider: {name: a}, rules: [{}]}|
gone|{rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}|
shop|{targetRefs: [{kind: Service, name: afar}], rules: [{}]}|
side|{selector: {matchLabels: {app: httpbin}}, rules: [{from: [{source: {requestPrincipals: ['a/b']}}]}]}|
side|{rules: [{to: [{operation: {methods: [GET]}}]}]}|
two|{selector: {matchLabels: {app: two}}, rules: [{to: [{operation: {methods: [GET]}}]}]}|
own|{selector: {matchLabels: {app: own}}, rules: [{to: [{operation: {methods: [GET]}}]}]}|
shop|{selector: {matchLabels: {app: nightly}}, rules: []}|
shop|{selector: {matchLabels: {app: canary}}, rules: []}|
shop|{selector: {matchLabels: {app: db, statefulset.kubernetes.io/pod-name: db-0}}, rules: []}|
shop|{selector: {matchLabels: {statefulset.kubernetes.io/pod-name: db-0}}, rules: []}|
shop|{selector: {matchLabels: {app: plain, pod-template-hash: 7d9f}}, rules: []}|
shop|{selector: {matchLabels: {strimzi.io/cluster: kafka}}, rules: []}|
istio-system|{selector: {matchLabels: {istio: ingressgateway}}, rules: [{from: [{source: {ipBlocks: [1.2.3.4]}}]}]}|
istio-system|{selector: {matchLabels: {app: istio-ingressgateway}}, action: DENY, rules: [{TO {hosts: [a]}}]}]}|
shop|{targetRefs: [{kind: Service, name: both}], rules: [{to: [{operation: {methods: [GET]}}]}]}|
shop|{BOTH, action: DENY, rules: [{TO {methods: [PUT], ports: ['80']}}]}]}|
shop|{BOTH, action: DENY, rules: [{TO {methods: [PUT], ports: ['81']}}]}]}|
shop|{BOTH, action: DENY, rules: [{TO {paths: [/a], notPorts: ['5432']}}]}]}|
shop|{BOTH, action: DENY, rules: [{TO {methods: [PUT]}}], when: [{key: destination.port, values: ['80']}]}]}|
shop|{targetRefs: [{kind: Service, name: raw}], action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}]}|
shop|{targetRefs: [OUTER], rules: [{TO {ports: ['443']}}]}]}|
shop|{L4, rules: [{from: [{source: {namespaces: [a]}}]}, {from: [{source: {namespaces: [b]}}]}]}|
shop|{rules: [{from: [{source: {namespaces: [other]}}]}], selector: {matchLabels: {app: app}}, action: ALLOW}|
shop|{L4, rules: [{FROM {ipBlocks: [10.1.0.0/16]}}]}, {FROM {ipBlocks: [10.2.0.0/16, '2001:db8::/32']}}]}]}|
shop|{L4, rules: [{from: [{source: {notIpBlocks: [10.1.0.0/16]}}]}, {from: [{source: {notIpBlocks: [10.2.0.0/16]}}]}]}|
"""
BROKEN = """
shop|{selector: {matchLabels: {app: plane}}, rules: [{}]}|selector-matches-nothing
shop|{selector: {matchLabels: {app: plane, pod-template-hash: 7d9f}}, rules: [{}]}|selector-matches-nothing
shop|{selector: {matchLabels: {aap: plain}}, rules: [{}]}|selector-matches-nothing
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
shop|{targetRefs: [OUTER], rules: [{TO {ports: ['8443']}}]}]}|workload-port
shop|{targetRefs: [{kind: Service, name: raw}], rules: [{to: [{operation: {methods: [GET]}}]}]}|http-at-tcp-port
shop|{RAW, rules: [{FROM {requestPrincipals: ['*']}}]}]}|http-at-tcp-port
shop|{targetRefs: [{kind: Service, name: raw}], action: DENY, rules: [{when: [{HEADER, values: [a]}]}]}|http-at-tcp-port
shop|{BOTH, action: DENY, rules: [{TO {methods: [PUT]}}]}]}|http-at-tcp-port
shop|{BOTH, rules: [{TO {methods: [PUT], ports: ['5432']}}]}]}|http-at-tcp-port
shop|{targetRefs: [{GATEWAY, name: wp}], action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}|http-at-tcp-port
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
shop|{action: DENY, rules: [{from: [{source: {notNamespaces: [other]}}]}]}|waypoint-forgotten
shop|{action: DENY, rules: [{to: [{operation: {ports: ['8080']}}]}]}|waypoint-forgotten
shop|{L4, rules: [{from: [{source: {namespaces: [a, b]}}]}, {from: [{source: {namespaces: [a]}}]}]}|shadowed-rule
shop|{L4, rules: [{from: [{source: {namespaces: [a]}}]}, {from: [{source: {namespaces: [a]}}]}]}|shadowed-rule
shop|{L4, rules: [{}, {to: [{operation: {ports: ['8080']}}]}]}|shadowed-rule
shop|{L7, rules: [{to: [{operation: {paths: ['/a*']}}]}, {to: [{operation: {paths: [/a], hosts: [b]}}]}]}|shadowed-rule
shop|{L4, rules: [{FROM {ipBlocks: [10.1.0.0/16]}}]}, {FROM {ipBlocks: [10.0.0.0/8]}}]}]}|shadowed-rule
shop|{L4, rules: [{FROM {ipBlocks: [10.0.0.0/8]}}]}, {FROM {ipBlocks: [10.1.0.0/16]}}]}]}|shadowed-rule
shop|{L4, rules: [{FROM {notIpBlocks: [10.1.0.0/16]}}]}, {FROM {notIpBlocks: [10.0.0.0/8]}}]}]}|shadowed-rule
shop|{L4, rules: [{when: [{IP, values: [10.0.0.0/8]}]}, {when: [{IP, values: [10.1.2.3]}]}]}|shadowed-rule
shop|{L4, rules: [{FROM {serviceAccounts: [shop/a, b]}}]}, {FROM {serviceAccounts: [a]}}]}]}|shadowed-rule
shop|{L7, action: DENY, rules: [{when: [{HEADER, values: ['*']}]}, {when: [{HEADER, values: [a]}]}]}|shadowed-rule
"""

# Names what has denied a call: an AuthorizationPolicy, or what istiod made of a PeerAuthentication.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

# istiod's names have an underscore, which no Kubernetes object can have. Of a PeerAuthentication with exceptions for
# ports it makes a policy of that name; all others that are STRICT share one (pilot/pkg/model/authentication.go,
# pilot/pkg/serviceregistry/ambient/authorization.go).
_OF_ONE = "converted_peer_authentication_"
_SHARED = "istio_converted_static_strict"
_KIND = "PeerAuthentication "
STRICT = f"{_KIND}STRICT, which refuses plain text"


def decider(policy: str) -> str:
    """What stands behind a policy's name (namespace/name) as a proxy logs it, for people."""
    namespace, _slash, name = policy.partition("/")
    if name == _SHARED:
        return STRICT
    if name.startswith(_OF_ONE):
        return f"{_KIND}{namespace}/{name.removeprefix(_OF_ONE)}"
    return f"istiod's own {policy}" if "_" in policy else policy


def is_policy(named: str) -> bool:
    """Whether a decider is an AuthorizationPolicy, which `by` can name."""
    return " " not in named


def command(named: str, kubectl: str) -> str:
    """Command that shows a decider; "" where there is no object.

    Args:
        named: of `decider`.
        kubectl: command with which the user reaches the cluster.
    """
    if named == STRICT:
        return f"{kubectl} get peerauthentications -A"
    kind = "authorizationpolicy" if is_policy(named) else "peerauthentication"
    namespace, slash, name = named.removeprefix(_KIND).partition("/")
    return f"{kubectl} -n {namespace} get {kind} {name} -o yaml" if slash and is_policy(namespace) else ""

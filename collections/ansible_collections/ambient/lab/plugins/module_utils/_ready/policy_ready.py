# What the module policy_ready does: parse, wait, and say who does not have a policy, and why.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re
import typing as t

from .._claims.parse import PolicyRef
from .._cluster.kube import Kube, kubectl
from .._common.errors import LabError
from .._common.rounds import Clock, Retry, require_seconds
from .._common.text import printable
from .barrier import Barrier, Passed

MAX_SHOWN = 12
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def policy_ready(params: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Wait until the policies in the module's parameters are in force, or gone.

    Args:
        params: of the module policy_ready.

    Raises:
        LabError: on wrong input, an API that does not answer, and policies that are not there in time.
    """
    require_seconds(params, timeout=0.0, interval=0.01)
    policies = refs(params["policies"])
    kube = Kube(params["kubeconfig"], params["context"])
    passed = Barrier(kube, policies, params["state"], Clock()).wait(params["timeout"], params["interval"])
    if passed.gaps:
        raise LabError(failure(passed, params["state"], kubectl(params)))
    return {
        "changed": False,
        "waited": round(passed.waited, 2),
        "proxies": [{**dataclasses.asdict(arrival), "after": round(arrival.after, 2)} for arrival in passed.arrivals],
    }


def refs(names: t.Sequence[str]) -> list[PolicyRef]:
    """The policies that a user names.

    Raises:
        LabError: when there is none, or one is not written as namespace/name.
    """
    if not names:
        raise LabError("policies is empty: a list that waits for nothing proves nothing; add namespace/name of one")
    return list(dict.fromkeys(policy_ref("policies", str(text)) for text in names))


def policy_ref(option: str, text: str) -> PolicyRef:
    """The policy that namespace/name means; option: of the module, for messages.

    Raises:
        LabError: when it is not written like this.
    """
    namespace, slash, name = text.partition("/")
    if not slash or not _NAME.fullmatch(namespace) or not _NAME.fullmatch(name):
        raise LabError(f"{option}: {text!r} must be namespace/name of an AuthorizationPolicy")
    return PolicyRef(namespace, name)


def failure(passed: Passed, state: str, command: str) -> str:
    """One screen that names each proxy without the policy, or still with it, and why.

    Args:
        command: with which the user reaches the cluster.
    """
    wanted = "in force" if state == "present" else "gone"
    pointless = any(gap.retry is Retry.POINTLESS for gap in passed.gaps)
    when = "and waiting won't help" if pointless else f"after {passed.waited:.1f} s"
    names = list(dict.fromkeys(gap.policy for gap in passed.gaps))
    lines = [f"{'1 policy is' if len(names) == 1 else f'{len(names)} policies are'} not {wanted} {when}:"]
    # What no waiting can change is what the user must see first.
    gaps = sorted(passed.gaps, key=lambda gap: gap.retry is Retry.USEFUL)
    lines += [f"  {gap.policy}: {printable(f'{gap.who}: {gap.why}')[:400]}" for gap in gaps[:MAX_SHOWN]]
    if len(gaps) > MAX_SHOWN:
        lines.append(f"  ({len(gaps) - MAX_SHOWN} more)")
    namespace, _slash, name = names[0].partition("/")
    lines.append(f"look: {command} -n {namespace} get authorizationpolicy {name} -o yaml")
    return "\n".join(lines)

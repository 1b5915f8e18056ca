"""Policies and claims about the trial's world, and checks of them in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from fault_world import Checked, check, until
from running_lab import Lab
from trial_world import SPACE

Object = dict[str, Any]


def policy(name: str, rule: Object | None, space: str = SPACE, **spec: Any) -> Object:
    """An AuthorizationPolicy with one rule (None for none) that denies, unless its spec has another action."""
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": name, "namespace": space},
        "spec": {"action": "DENY", "rules": [] if rule is None else [rule], **spec},
    }


def on(app: str) -> Object:
    """A policy's selector of an app's pods."""
    return {"selector": {"matchLabels": {"app": app}}}


def bound(kind: str, name: str, group: str = "") -> Object:
    """A policy's targetRefs."""
    return {"targetRefs": [{"group": group, "kind": kind, "name": name}]}


def asked(url: str, source: str, expect: object, method: str = "GET", **fields: Any) -> Object:
    """A claim of one of the trial's clients."""
    to = {"url": url, "method": method}
    return {
        "name": f"{source} {method} {url}",
        "from": {"pod": source, "namespace": SPACE},
        "to": to,
        "expect": expect,
        **fields,
    }


@contextmanager
def there(lab: Lab, *objects: Object) -> Iterator[None]:
    """Objects that go again."""
    with ExitStack() as stack:
        for item in objects:
            stack.callback(lab.delete, item)
        lab.apply(list(objects))
        yield


def settled(lab: Lab, claims: list[Object], wanted: Callable[[Checked], bool], **changes: Any) -> Checked:
    """What the check says once the policies have taken hold; the last word where that never comes."""
    said: list[Checked] = []

    def is_so() -> bool:
        said[:] = [check(lab, claims, namespace=SPACE, **changes)]
        return wanted(said[0])

    with suppress(TimeoutError):
        until(is_so, 60)
    return said[0]


def words(checked: Checked) -> str:
    """Its message in one line."""
    return " ".join(checked.message.split())

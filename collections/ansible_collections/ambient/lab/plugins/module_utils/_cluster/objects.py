# Applies and removes many objects: the cluster itself says what that changes, of each object.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import json
import re
import typing as t

from .._common.errors import LabError
from .._common.rounds import Clock, Reason, Wait, repeat
from .._common.text import place_of
from .channel import Answer, status_message
from .finder import Finder, Wanted
from .kube import APPLY, Kube, missing_right

try:
    import yaml
except ImportError:  # ansible-core needs it itself
    yaml = None  # type: ignore[assignment]

Object = dict[str, t.Any]

# What the API keeps of every object for itself; a change of nothing else is no change that anybody made.
_BOOKKEEPING = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
# Who made an object: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
MANAGED_BY = "app.kubernetes.io/managed-by"
# Where kubectl keeps the whole object once more.
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
# The API server's own words: admission of pods, namespace lifecycle.
_NO_ACCOUNT = r'error looking up service account \S+: serviceaccount "[^"]+" not found'
_NO_NAMESPACE = r'namespaces "[^"]+" not found'
PARALLEL = 8
POLL_SECONDS = 0.1


def documents(definition: t.Any) -> list[Object]:
    """The objects of a definition: a list, one object, or YAML with any number of documents.

    Raises:
        LabError: when it is none of these, or an object has no API version, no kind or no name.
    """
    if isinstance(definition, str):
        try:
            definition = list(yaml.safe_load_all(definition))
        except yaml.YAMLError as error:
            raise LabError(f"definition is no YAML{place_of(error)}: correct it") from None
    found = [item for item in (definition if isinstance(definition, list) else [definition]) if item]
    for number, item in enumerate(found, 1):
        meta = item.get("metadata") if isinstance(item, dict) else None
        if not (isinstance(meta, dict) and meta.get("name") and item.get("kind") and item.get("apiVersion")):
            has = ", ".join(map(str, item))[:100] if isinstance(item, dict) else "no keys"
            raise LabError(f"definition: object {number} needs apiVersion, kind and metadata.name; it has {has}")
    return found


def title(item: Object) -> str:
    """Kind, namespace and name, for people."""
    meta = item["metadata"]
    return f"{item['kind']} {meta['namespace'] + '/' if meta.get('namespace') else ''}{meta['name']}"


def owned(wanted: list[Object], there: list[Object], owner: str, state: str) -> list[Object]:
    """The objects that may be touched: with the owner's label app.kubernetes.io/managed-by, and nobody else's.

    Args:
        there: those of the wanted ones that the cluster has already.
        state: present or absent.

    Returns:
        To be present, all of them, labelled. Otherwise only those that are there with this label.

    Raises:
        LabError: when one that shall be present is there already without the label.
    """
    labels = {title(item): (item["metadata"].get("labels") or {}).get(MANAGED_BY) for item in there}
    if state == "absent":
        return [item for item in wanted if labels.get(title(item)) == owner]
    foreign = [title(item) for item in wanted if labels.get(title(item), owner) != owner]
    if foreign:
        raise LabError(
            f"{foreign[0]} is there already and is not the lab's (it has no label {MANAGED_BY}={owner}): "
            "remove it, or choose another name or namespace",
            refused=foreign,
        )
    own = [{**(item["metadata"].get("labels") or {}), MANAGED_BY: owner} for item in wanted]
    return [
        {**item, "metadata": {**item["metadata"], "labels": label}} for item, label in zip(wanted, own, strict=True)
    ]


class Refused(Exception):
    """The API does not take an object: its words in one line, and what to do about it where that is known."""


class Changer:
    """Changes the objects of one cluster.

    Args:
        manager: name under which objects are applied.
        check: nothing is written; the cluster itself says what would be (server-side dry run).
    """

    def __init__(self, kube: Kube, manager: str, check: bool) -> None:
        self._kube, self._finder, self._check = kube, Finder(kube), check
        self._apply = {"fieldManager": manager, "force": "true"}

    def require_namespaces(self, wanted: t.Iterable[Object]) -> None:
        """Raise LabError for an object without its namespace: it would not be found, and taken for one that is gone."""
        for item in wanted:
            named = item["metadata"].get("namespace")
            if not named and (self._finder.resource(_wanted(item)) or {}).get("namespaced"):
                raise LabError(f"{title(item)} has no metadata.namespace: add the one that it is to be removed from")

    def there(self, wanted: t.Sequence[Object]) -> dict[str, Object]:
        """Those of the objects that the cluster has, by title; all are asked for at once."""
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            found = list(pool.map(self._finder.find, map(_wanted, wanted)))
        return {title(item): items[0] for item, items in zip(wanted, found, strict=True) if items}

    def present(self, wanted: t.Sequence[Object], there: t.Mapping[str, Object]) -> Object:
        """Apply the objects, one after the other; those that are as they are wanted are left alone.

        Raises:
            LabError: with one line for the first object that was refused.
        """
        with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
            same = list(pool.map(lambda item: self._is_as(item, there.get(title(item))), wanted))
        diffs, refused, unseen = [], [], []
        for item in (item for item, is_same in zip(wanted, same, strict=True) if not is_same):
            before = there.get(title(item))
            try:
                after = self._applied(item, dry=self._check)
            except Refused as error:
                if not (self._check and re.search(f"{_NO_ACCOUNT}|{_NO_NAMESPACE}", str(error))):
                    refused.append(f"{title(item)}: {error}")
                    continue
                unseen.append(title(item))
                after = item
            # Of an object that is new, what was asked for is shown.
            diffs.append(_difference(item, _plain(before), _plain(after)) if before else _difference(item, {}, item))
        return _outcome(diffs, refused) | _unseen(unseen)

    def absent(self, wanted: t.Sequence[Object], timeout: float) -> Object:
        """Remove the objects that are there, and wait until all of them are gone; timeout: seconds.

        Raises:
            LabError: with one line for the first object that was refused, or is still there.
        """
        diffs, refused = [], []
        dry = {"dryRun": "All"} if self._check else {}
        for item in wanted:
            try:
                # It may have followed its owner meanwhile, as a token's Secret its ServiceAccount: gone is gone.
                if self._sent("DELETE", item, "", None, **dry).status != 404:
                    diffs.append(_difference(item, item, {}))
            except Refused as error:
                refused.append(f"{title(item)}: {error}")
        outcome = _outcome(diffs, refused)
        if not self._check:
            self._wait_until_gone(wanted, timeout)
        return outcome

    def _is_as(self, item: Object, there: Object | None) -> bool:
        """Whether an apply would leave an object as it is, down to who has set which field."""
        try:
            return there is not None and _wished(self._applied(item, dry=True)) == _wished(there)
        except Refused:
            return False

    def _applied(self, item: Object, dry: bool) -> Object:
        query = self._apply | ({"dryRun": "All"} if dry else {})
        found: Object = json.loads(self._sent("PATCH", item, APPLY, item, **query).body)
        return found

    def _sent(self, method: str, item: Object, content: str, body: Object | None, **query: str) -> Answer:
        path = self._finder.path(_wanted(item))
        if path is None:
            raise Refused(f"the API knows no kind {item['kind']} in {item['apiVersion']}: install its CRD first")
        answer = self._kube.send(method, path, body, content, **query)
        if answer.status >= 300 and (method, answer.status) != ("DELETE", 404):
            said = _without_content_of(item, status_message(answer.body)) or f"HTTP {answer.status}"
            raise Refused(missing_right(said) if answer.status == 403 and " cannot " in said else said)
        return answer

    def _wait_until_gone(self, wanted: t.Sequence[Object], timeout: float) -> None:
        rule = Wait[dict[str, Object]](timeout, lambda left: [Reason(f"{name} is still there") for name in left])
        for name, item in repeat(lambda: self.there(wanted), rule, Clock(), POLL_SECONDS).last.items():
            held = ", ".join(item["metadata"].get("finalizers") or []) or "no finalizer"
            raise LabError(f"{name} is still there after {timeout:g} s ({held} holds it): see what its events say")


def _wanted(item: Object) -> Wanted:
    return Wanted(item["kind"], item["apiVersion"], item["metadata"]["name"], item["metadata"].get("namespace"))


def _wished(item: Object) -> Object:
    """An object without its status, which is nobody's wish."""
    meta = {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": meta}


def _outcome(diffs: list[Object], refused: list[str]) -> Object:
    """changed, objects (the title of each that changed) and diff (before, after, and their headers, of each)."""
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise LabError(refused[0] + more, refused=refused)
    diffs = [item for item in diffs if item["before"] != item["after"]]
    return {"changed": bool(diffs), "objects": [item["after_header"] for item in diffs], "diff": diffs}


def _unseen(titles: list[str]) -> Object:
    """The warning of check mode about objects that it shows as they are written."""
    why = "their namespace or ServiceAccount does not exist yet, so the API can't look at them"
    return {"warnings": [f"Check mode takes as new: {', '.join(titles)} ({why})"]} if titles else {}


def _difference(item: Object, before: Object, after: Object) -> Object:
    """Before and after of one object, as Ansible shows them."""
    texts = {"before": _yaml(_masked(before, after, "before")), "after": _yaml(_masked(after, before, "after"))}
    return {**texts, "before_header": title(item), "after_header": title(item)}


def _masked(item: Object, other: Object, side: str) -> Object:
    """An object without a Secret's content, as `kubectl diff` shows it (k8s.io/kubectl, pkg/cmd/diff, Masker)."""
    if item.get("kind") != "Secret":
        return item
    shown = {**item, "metadata": {**item["metadata"]}}
    if LAST_APPLIED in (shown["metadata"].get("annotations") or {}):
        shown["metadata"]["annotations"] = {**shown["metadata"]["annotations"], LAST_APPLIED: "***"}
    for field in ("data", "stringData"):
        content, there = item.get(field), other.get(field)
        if isinstance(content, dict):
            there = there if isinstance(there, dict) else {}
            shown[field] = {
                key: "***" if there.get(key, value) == value else f"*** ({side})" for key, value in content.items()
            }
    return shown


def _without_content_of(item: Object, text: str) -> str:
    """The API's words, of a Secret without what it keeps: of a wrong type they tell the value, in Go's writing.

    Source: structured-merge-diff, typed/validate.go ("expected string, got ...").
    """
    pattern = r"\b(got|Value:|cannot unmarshal)\b.*"
    return re.sub(pattern, r"\1 ***", text, flags=re.S) if item["kind"] == "Secret" else text


def _plain(item: Object) -> Object:
    """An object without what the API keeps for itself."""
    shown = {key: value for key, value in item.items() if key != "status"}
    meta = {key: value for key, value in (shown.pop("metadata", None) or {}).items() if key not in _BOOKKEEPING}
    kept = {key: value for key, value in meta.items() if value}
    return {**({"metadata": kept} if kept else {}), **shown}


def _yaml(item: Object) -> str:
    # A date without quotes is a date.
    return str(yaml.safe_dump(json.loads(json.dumps(item, default=str)))) if item else ""

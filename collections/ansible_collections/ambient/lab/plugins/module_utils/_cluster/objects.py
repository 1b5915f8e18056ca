# Reads what kubernetes.core.k8s answers for many objects: one diff an object, and what check mode may foresee.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import json
import re
import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import missing_right
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

try:
    import yaml
except ImportError:  # ansible-core needs it itself
    yaml = None  # type: ignore[assignment]

Object = dict[str, t.Any]

# What the API keeps of every object for itself; a change of nothing else is no change that anybody made.
_BOOKKEEPING = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "uid")
# Who made an object: https://kubernetes.io/docs/concepts/overview/working-with-objects/common-labels/
MANAGED_BY = "app.kubernetes.io/managed-by"
# The API server's own words (admission of pods, namespace lifecycle), and kubernetes.core's for a kind without a CRD.
_NO_ACCOUNT = re.compile(r'error looking up service account \S+: serviceaccount "(?P<name>[^"]+)" not found')
_NO_NAMESPACE = re.compile(r'namespaces "(?P<name>[^"]+)" not found')
_NO_KIND = "Failed to find exact match for"


def documents(definition: t.Any) -> list[Object]:
    """The objects of a definition: a list, one object, or YAML with any number of documents.

    Raises:
        LabError: when it is none of these, or an object has no API version, no kind or no name.
    """
    if isinstance(definition, str):
        try:
            definition = list(yaml.safe_load_all(definition))
        except yaml.YAMLError as error:
            raise LabError(f"definition is no YAML: {' '.join(str(error).split())}") from error
    found = [item for item in (definition if isinstance(definition, list) else [definition]) if item]
    for item in found:
        meta = item.get("metadata") if isinstance(item, dict) else None
        if not (isinstance(meta, dict) and meta.get("name") and item.get("kind") and item.get("apiVersion")):
            shown = json.dumps(item, default=str)[:100]
            raise LabError(f"definition holds something without apiVersion, kind or metadata.name: {shown}")
    return found


def title(item: Object) -> str:
    """Kind, namespace and name, for people."""
    meta = item["metadata"]
    return f"{item['kind']} {meta['namespace'] + '/' if meta.get('namespace') else ''}{meta['name']}"


def owned(wanted: list[Object], there: list[Object], owner: str, state: str) -> list[Object]:
    """The objects that may be touched: with the owner's label, and nobody else's.

    Args:
        wanted: the objects, in the order they were given.
        there: those of them that the cluster has already.
        owner: value of the label app.kubernetes.io/managed-by.
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
    return [_labelled(item, owner) for item in wanted]


def _labelled(item: Object, owner: str) -> Object:
    meta = item["metadata"]
    return {**item, "metadata": {**meta, "labels": {**(meta.get("labels") or {}), MANAGED_BY: owner}}}


def is_same(item: Object, applied: Object) -> bool:
    """Whether an apply leaves an object as it is, down to who has set which field. Its status is nobody's wish."""
    return _wished(item) == _wished(applied)


def _wished(item: Object) -> Object:
    meta = {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": meta}


def outcome(wanted: list[Object], answer: Object, state: str, check: bool) -> Object:
    """The task's result.

    Args:
        wanted: the objects, in the order they were given.
        answer: of kubernetes.core.k8s with continue_on_error.
        state: present or absent.
        check: whether nothing was written.

    Returns:
        changed, objects (the title of each that changed) and diff (before, after, and their headers, of each).

    Raises:
        LabError: with one line for the first object that was refused.
    """
    nested = (answer.get("result") or {}).get("results")
    results = nested if isinstance(nested, list) else [answer]
    # A module that fails as a whole has no result at all, and must not be taken for one object that is as it was.
    if answer.get("failed") or "result" not in answer or len(results) != len(wanted):
        raise LabError(_words(answer.get("msg") or "kubernetes.core.k8s gave no answer"))
    refused: list[str] = []
    diffs = []
    for item, result in zip(wanted, results, strict=True):
        error = (result.get("error") or {}).get("msg")
        # Gone is gone: what was found a moment ago may have followed its owner meanwhile.
        if error and state == "absent" and (_NO_KIND in error or _status(error).get("code") == 404):
            continue
        if error and not (check and state == "present" and _comes_with(error, item, wanted)):
            refused.append(f"{title(item)}: {_words(error)}")
        elif error or result.get("changed"):
            diffs.append(_difference(item, result, state))
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise LabError(refused[0] + more, refused=refused)
    diffs = [item for item in diffs if item["before"] != item["after"]]
    return {"changed": bool(diffs), "objects": [item["after_header"] for item in diffs], "diff": diffs}


def _comes_with(error: str, item: Object, wanted: list[Object]) -> bool:
    """Whether what the API misses is made by the same task, which check mode did not make."""
    message = _message(error)
    for pattern, kind in ((_NO_ACCOUNT, "ServiceAccount"), (_NO_NAMESPACE, "Namespace")):
        found = pattern.search(message)
        if found:
            namespace = item["metadata"].get("namespace") if kind == "ServiceAccount" else None
            missing = {"kind": kind, "metadata": {"name": found["name"], "namespace": namespace}}
            return title(missing) in [title(other) for other in wanted]
    return False


def _difference(item: Object, result: Object, state: str) -> Object:
    """Before and after of one object, as Ansible shows them; of an object that is new or goes, what was asked for."""
    told = result.get("diff") or {}
    if state == "absent":
        before, after = item, {}
    elif told.get("before"):
        before, after = _plain(told["before"]), _plain(told["after"])
    else:
        before, after = {}, item
    header = {"before_header": title(item), "after_header": title(item)}
    return {"before": _yaml(before), "after": _yaml(after), **header}


def _plain(item: Object) -> Object:
    """An object without what the API keeps for itself."""
    shown = {key: value for key, value in item.items() if key != "status"}
    meta = {key: value for key, value in (shown.pop("metadata", None) or {}).items() if key not in _BOOKKEEPING}
    kept = {key: value for key, value in meta.items() if value}
    return {**({"metadata": kept} if kept else {}), **shown}


def _yaml(item: Object) -> str:
    # Ansible's own strings and dicts carry tags, which YAML cannot write; a date without quotes is a date.
    return str(yaml.safe_dump(json.loads(json.dumps(item, default=str)))) if item else ""


def _status(error: str) -> Object:
    """The API's Status object out of the text that kubernetes.core makes of it; empty where there is none."""
    start = error.find("{")
    try:
        found = json.loads(error[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _message(error: str) -> str:
    return str(_status(error).get("message") or error)


def _words(error: str) -> str:
    """What the API said, in one line, and what to do about it where that is known."""
    said = " ".join(_message(error).split())
    if _status(error).get("code") == 403 and " cannot " in said:
        return missing_right(said)
    return said

# Reads the facts of a lab, and says what to run first when something in it is missing.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import typing as t

from .._cluster.finder import Finder, Object, Wanted
from .._cluster.kube import RIGHT, START, Kube
from .._common.errors import LabError

FACTS = (
    "provider",
    "cluster_name",
    "kubeconfig",
    "helm",
    "gateway_api_crds",
    "istio_values",
    "images",
    "node_ports",
)


def read_lab(lab_dir: str, hint: str, facts: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
    """The facts that lab_facts wrote, or those that are given.

    Args:
        hint: what makes the lab, for messages.

    Raises:
        LabError: when there is no lab, or its facts are incomplete.
    """
    path = os.path.join(lab_dir, "lab.json")
    try:
        lab = facts or json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LabError(f"No lab in {lab_dir}{_beside(lab_dir)}: {hint}") from error
    except (OSError, ValueError) as error:
        raise LabError(f"{path} can't be read ({error}): {hint}") from error
    missing = [key for key in FACTS if key not in lab] if isinstance(lab, dict) else list(FACTS)
    if missing:
        raise LabError(f"{path} lacks {', '.join(missing)}: {hint}")
    if not os.path.isfile(lab["kubeconfig"]):
        raise LabError(f"The lab's kubeconfig {lab['kubeconfig']} does not exist: {hint}")
    return t.cast("dict[str, t.Any]", lab)


def _beside(lab_dir: str) -> str:
    """The labs beside a folder, for whoever has mistyped its name."""
    parent = pathlib.Path(lab_dir).parent
    names = sorted(path.parent.name for path in parent.glob("*/lab.json"))
    return f" (there are {', '.join(names)})" if names else ""


def require(
    lab: t.Mapping[str, t.Any], requires: t.Sequence[t.Mapping[str, t.Any]], look_for: t.Sequence[t.Mapping[str, t.Any]]
) -> list[Object]:
    """Check that the cluster answers and has the objects; all of them are asked for at once.

    Args:
        requires: kind, api_version, name, namespace (optional) and hint (what its absence means, and what to do).
        look_for: the same without hint; these may be missing.

    Returns:
        What is there of look_for.

    Raises:
        LabError: with one line that names the first object missing and its hint, or why the API gives no answer.
    """
    kube = Kube(lab["kubeconfig"], lab.get("context"))
    finder = Finder(kube)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        version = pool.submit(kube.get, "/version")
        found = list(pool.map(lambda item: finder.find(Wanted.of(item)), [*requires, *look_for]))
        version.result()
    for item, there in zip(requires, found, strict=False):
        if not there:
            place = f" in namespace {item['namespace']}" if item.get("namespace") else ""
            hint = f": {item['hint']}" if item["hint"] else ""
            raise LabError(f"{item['kind']} {item['name']}{place} is missing{hint}")
    return [item for items in found[len(requires) :] for item in items]


@contextlib.contextmanager
def hinted(hints: t.Mapping[str, str | None]) -> t.Iterator[None]:
    """Add what the caller knows of a cluster that does not answer, and of rights that a user lacks."""
    try:
        yield
    except LabError as error:
        known = {START: hints["cluster"], RIGHT: hints["rights"]}
        hint = next((hint for end, hint in known.items() if hint and error.message.endswith(end)), None)
        if not hint:
            raise
        raise LabError(f"{error.message}; {hint}") from error

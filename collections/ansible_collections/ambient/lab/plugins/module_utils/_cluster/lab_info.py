# Reads the facts of a lab, and says what to run first when something in it is missing.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import concurrent.futures
import json
import os
import pathlib
import typing as t

from .._common.errors import LabError
from .finder import Finder, Object, Wanted
from .kube import Kube

# What it means that an object is missing, by the tag that makes it.
MISSING = {
    "istio_ambient": "The mesh is not installed",
    "kiali": "Kiali is not installed",
    "sample_app": "The sample app is not installed",
    "l4_authz": "The L4 policy is not set up",
    "l7_waypoint": "The L7 policy is not set up",
}
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


def read_lab(lab_dir: str, facts: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
    """The facts that the role `cluster` wrote, or those that are given.

    Raises:
        LabError: when there is no lab, or its facts are incomplete.
    """
    path = os.path.join(lab_dir, "lab.json")
    try:
        lab = facts or json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise LabError(f"No lab in {lab_dir}{_beside(lab_dir)}: run `ansible-playbook site.yml` first") from error
    except (OSError, ValueError) as error:
        raise LabError(
            f"{path} can't be read ({error}): run `ansible-playbook site.yml --tags cluster` again"
        ) from error
    missing = [key for key in FACTS if key not in lab] if isinstance(lab, dict) else list(FACTS)
    if missing:
        raise LabError(f"{path} lacks {', '.join(missing)}: run `ansible-playbook site.yml --tags cluster` again")
    if not os.path.isfile(lab["kubeconfig"]):
        raise LabError(
            f"The lab's kubeconfig {lab['kubeconfig']} does not exist: run `ansible-playbook site.yml --tags cluster`"
        )
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
        requires: kind, api_version, name, namespace (optional) and made_by (the tag to run) of each.
        look_for: the same without made_by; these may be missing.

    Returns:
        What is there of look_for.

    Raises:
        LabError: with one line that names the first object missing and what to run, or why the API gives no answer.
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
            meaning = MISSING.get(item["made_by"], f"What the tag {item['made_by']} makes is not there")
            missing = f"{item['kind']} {item['name']}{place} is missing"
            raise LabError(f"{meaning} ({missing}): run `ansible-playbook site.yml --tags {item['made_by']}` first")
    return [item for items in found[len(requires) :] for item in items]

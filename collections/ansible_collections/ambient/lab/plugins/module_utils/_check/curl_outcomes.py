# What the module curl_outcomes does: parse, check, explain, write down.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import time
import typing as t

from .._claims.parse import parse_claims
from .._cluster.kube import Kube, kubectl
from .._common.errors import LabError
from .._common.rounds import require_seconds
from .._mesh.folder import read_folder
from .._mesh.load import Asked, Loader
from .._mesh.mesh import Mesh
from .._results.store import checked, keep, require_writable
from .report import as_result, failure, kept
from .rounds import Settings, check, judge_predictions, read

MAX_CONCURRENCY = 64
# What every module that checks claims takes; documented in doc_fragments/_check.py.
CHECK_SPEC: dict[str, dict[str, t.Any]] = {
    "phase": {"type": "str", "choices": ["before", "after"], "default": "after"},
    "probe_timeout": {"type": "float", "default": 5},
    "concurrency": {"type": "int", "default": 8},
    "results_file": {"type": "path"},
    "section": {"type": "str"},
}


def prove(params: t.Mapping[str, t.Any], check_mode: bool) -> dict[str, t.Any]:
    """Check the claims in the parameters of the module curl_outcomes; check_mode: probe, but write no results file.

    Raises:
        LabError: on wrong input, an API that does not answer, and claims that do not hold.
    """
    settings = settings_of(params)
    claims = parse_claims(params["claims"], params["namespace"])
    path, section = params["results_file"], params["section"]
    require_writable(path, section)
    if params["manifests"] and not params["predict_only"]:
        raise LabError("manifests is a folder, to which nothing can be sent: it needs predict_only: true")
    if params["manifests"]:
        result = judge_predictions(claims, settings, read_folder(params["manifests"]))
    else:
        edge = KubeEdge(params["kubeconfig"], params["context"])
        predict = params["predict_only"]
        result = judge_predictions(claims, settings, read(claims, edge)) if predict else check(claims, settings, edge)
    found = kept(result)
    if path and not check_mode and not params["predict_only"]:
        keep(path, section, lambda old: checked(old, settings.phase, found))
    returned = as_result(result, found)
    if result.verdict != "pass":
        raise LabError(failure(result, settings, section or "", kubectl(params)), **returned)
    return returned


def settings_of(params: t.Mapping[str, t.Any]) -> Settings:
    """How to check, from a module's parameters.

    Raises:
        LabError: on a number out of range.
    """
    if params["stable"] < 1:
        raise LabError(f"stable must be at least 1, not {params['stable']}")
    if not 1 <= params["concurrency"] <= MAX_CONCURRENCY:
        raise LabError(f"concurrency must be from 1 to {MAX_CONCURRENCY}, not {params['concurrency']}")
    require_seconds(params, timeout=0.0, interval=0.0, probe_timeout=0.1)
    names = [field.name for field in dataclasses.fields(Settings)]
    return Settings(**{name: params[name] for name in names if name in params})


class KubeEdge(Kube):
    """The Edge of rounds.py on a cluster. Arguments as of Kube."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        super().__init__(kubeconfig, context)
        self._loaders: dict[t.Any, Loader] = {}

    def mesh(self, asked: t.Iterable[Asked], namespaces: t.Iterable[str]) -> Mesh:
        """The objects on the ways of some requests; what changes seldom is read the first time only."""
        key = frozenset(asked), frozenset(namespaces)
        if key not in self._loaders:
            self._loaders[key] = Loader(self, *key)
        return self._loaders[key].load()

    def forget(self) -> None:
        """Read what changes seldom again, too."""
        self._loaders.clear()

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait between two rounds."""
        time.sleep(seconds)

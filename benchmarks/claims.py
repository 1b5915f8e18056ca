"""Claims checked by ambient.lab.curl_outcomes beside single requests by kubectl exec and by k8s_exec.

Part of playbooks/bench.yml, which makes the pods and measures what runs as a task; run that instead:
`ansible-playbook playbooks/bench.yml`. The file that is given holds what it has measured, and gets the figures.
"""

from __future__ import annotations

import collections
import json
import subprocess
import sys
import time
import typing as t
from pathlib import Path

from ansible_collections.ambient.lab.plugins.module_utils._check.curl_outcomes import KubeEdge
from ansible_collections.ambient.lab.plugins.module_utils._check.rounds import CheckResult, Settings, check
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import parse_claims
from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import Answer

KUBECTL_SECONDS = 60.0


class CountingEdge(KubeEdge):
    """Counts what goes to the API, by kind."""

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        super().__init__(kubeconfig, context)
        self.calls: collections.Counter[str] = collections.Counter()

    def ask(self, path: str, **query: str) -> Answer:
        """GET a path."""
        self.calls["log" if path.endswith("/log") else "get"] += 1
        return super().ask(path, **query)

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET from a pod's localhost."""
        self.calls["port-forward"] += 1
        return super().forward(namespace, pod, port, path)

    def run(self, *args: t.Any, **kwargs: t.Any) -> tuple[str, str]:
        """Run a script in a container."""
        self.calls["exec"] += 1
        return super().run(*args, **kwargs)


def check_claims(given: t.Mapping[str, t.Any], count: int, **settings: t.Any) -> tuple[CheckResult, dict[str, int]]:
    """Check the first claims: the result, and the number of API calls by kind."""
    edge = CountingEdge(given["kubeconfig"], given["context"])
    claims = parse_claims(given["claims"][:count], given["namespace"])
    return check(claims, Settings(**settings), edge), dict(sorted(edge.calls.items()))


def kubectl_seconds(given: t.Mapping[str, t.Any]) -> float:
    """Seconds for the sample of claims, one kubectl exec each."""
    command = [given["kubectl"], "--kubeconfig", given["kubeconfig"]]
    command += ["--context", given["context"]] if given["context"] else []
    started = time.monotonic()
    for claim in given["claims"][: given["kubectl_requests"]]:
        probe = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code} %{exitcode}", "--max-time", "5", claim["to"]]
        run = [*command, "exec", "--namespace", given["namespace"], claim["from"]["pod"], "--", *probe]
        # A denied request makes curl and kubectl fail; what counts is that curl reported.
        done = subprocess.run(run, capture_output=True, text=True, timeout=KUBECTL_SECONDS, check=False)
        if not done.stdout:
            raise RuntimeError(f"kubectl exec in {claim['from']['pod']} printed nothing: {done.stderr.strip()}")
    return time.monotonic() - started


def compare(given: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """All figures of a run; times are in seconds."""
    count, sources = len(given["claims"]), given["sources"]
    kubectl = kubectl_seconds(given)
    rates = {
        "curl_outcomes, whole task": count / float(given["task_seconds"]),
        "kubectl exec per request": given["kubectl_requests"] / kubectl,
        "k8s_exec in a loop": int(given["k8s_exec_requests"]) / float(given["k8s_exec_seconds"]),
    }
    ours = rates["curl_outcomes, whole task"]
    rounds = {}
    for name, settings in (
        ("one round, client alone", {"stable": 1, "witnesses": "none"}),
        ("one round, all witnesses", {"stable": 1, "witnesses": "required"}),
        ("three rounds, all witnesses", {"witnesses": "required"}),
    ):
        result, _calls = check_claims(given, count, **settings)
        rounds[name] = {"seconds": round(result.elapsed, 2), "rounds": result.rounds, "verdict": result.verdict}
    few, many = (check_claims(given, number, stable=1, witnesses="required")[1] for number in (sources, count))
    return {
        "claims": count,
        "sources": sources,
        "task_seconds": round(float(given["task_seconds"]), 2),
        "module": given["module"],
        "claims_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "times_as_fast_as": {name: round(ours / rate, 1) for name, rate in rates.items() if rate != ours},
        "in_process": rounds,
        "api_calls_of_a_round": {str(sources): few, str(count): many},
    }


def lines(figures: t.Mapping[str, t.Any]) -> list[str]:
    """The figures for a person."""
    said = [
        f"{figures['claims']} claims from {figures['sources']} sources: {figures['task_seconds']} s for the task, "
        f"{figures['module']['elapsed']} s in {figures['module']['rounds']} rounds of it checking"
    ]
    said += [f"{rate:10.2f} claims per second: {name}" for name, rate in figures["claims_per_second"].items()]
    said += [f"{ratio:10.1f} times as fast as {name}" for name, ratio in figures["times_as_fast_as"].items()]
    said += [
        f"{found['seconds']:10.2f} s: {name} ({found['rounds']} rounds, {found['verdict']})"
        for name, found in figures["in_process"].items()
    ]
    return said + [
        f"API calls of a round with {count} claims: " + ", ".join(f"{number} {kind}" for kind, number in calls.items())
        for count, calls in figures["api_calls_of_a_round"].items()
    ]


def main() -> int:
    path = Path(sys.argv[1])
    given = json.loads(path.read_text(encoding="utf-8"))
    figures = compare(given)
    path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print("\n".join(lines(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs the project's playbooks as a user does: any of them, verify.yml on a lab, claims.yml on a fleet of clusters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from project import ROOT

Ran = subprocess.CompletedProcess[str]
# Seconds after which a playbook hangs; on a busy machine none takes nearly as long.
HANGS = 600
# A run that need not wait for Kiali's graph.
NO_GRAPH = json.dumps({"l4_authz_graph_claims": [], "l7_waypoint_graph_claims": []})


def play(*arguments: str, **settings: str) -> Ran:
    """Run ansible-playbook with these arguments.

    A run that does not end is a failure with what it has printed.

    Args:
        settings: environment variables.
    """
    program = Path(sys.executable).with_name("ansible-playbook")
    # molecule asks for colours.
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **settings}
    try:
        return subprocess.run(
            [str(program), *arguments],
            cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HANGS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        printed = (error.stdout or b"").decode("utf-8", "replace")
        raise AssertionError(f"{' '.join(arguments)} took longer than {HANGS} s:\n{printed}") from None


def verify(lab_dir: Path, tags: str) -> Ran:
    """Prove a running lab's claims again, those with these tags; a claim that does not hold is given up after 2 s."""
    timeouts = [f"{name}=2" for name in ("l4_authz_timeout", "l7_waypoint_timeout", "sample_app_answer_timeout")]
    variables = [f"lab_dir={lab_dir}", *timeouts]
    extra = [word for variable in variables for word in ("-e", variable)]
    return play("playbooks/verify.yml", "--tags", tags, *extra)


def prove(folder: Path, clusters: dict[str, dict[str, Any]], *arguments: str) -> Ran:
    """Run claims.yml on clusters, each with its variables; inventory, results and report are in a folder."""
    inventory = folder / "fleet.json"
    inventory.write_text(json.dumps({"all": {"hosts": clusters, "vars": {"claims_dir": str(folder / "claims")}}}))
    return play("-i", str(inventory), "playbooks/claims.yml", *arguments)


def line_of(ran: Ran, task: str, cluster: str) -> str:
    """The first line that a task shows for a cluster, "" where there is none."""
    shown = ran.stdout.partition(f"TASK [{task}]")[2].partition("\nTASK [")[0]
    return next((line for line in shown.splitlines() if f"[{cluster}]" in line), "")

"""Waiting for a lab: until its API answers and every node says that it is Ready, or the time is over."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from .cache import Progress
from .errors import LabError
from .launcher import alive
from .slots import LOOPBACK
from .topology import Lab

POLL_SECONDS = 0.1
# Of one answer: a machine that is busy may be slow, and the wait has a timeout of its own.
ANSWER_SECONDS = 30.0


class Api:
    """The cluster's API with the administrator's certificate; one GET is all that is needed here."""

    def __init__(self, keys: Path, port: int) -> None:
        self.port = port
        self.context = ssl.create_default_context(cafile=str(keys / "ca.crt"))
        self.context.load_cert_chain(keys / "admin.crt", keys / "admin.key")

    def get(self, path: str) -> tuple[int, Any]:
        """Status and body (JSON where it is) of a GET; status 0 when nothing answers."""
        connection = http.client.HTTPSConnection(LOOPBACK, self.port, timeout=ANSWER_SECONDS, context=self.context)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            is_json = "json" in response.headers.get_content_type()
            return response.status, json.loads(body) if is_json else body.decode()
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()


def _node_is_ready(api: Api, name: str, file: Path) -> bool:
    """Ready, and said so by a kubelet that runs now: after a restart the old word still stands.

    :param file: names the node's first process, and is as old as that.
    """
    if alive(file) is None:
        return False
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(file.stat().st_mtime))
    status, node = api.get(f"/api/v1/nodes/{name}")
    conditions = node.get("status", {}).get("conditions", []) if status == 200 else []
    return any(
        item["type"] == "Ready" and item["status"] == "True" and item["lastHeartbeatTime"] >= since
        for item in conditions
    )


def last_words(folder: Path) -> str:
    """What the logs say last, one line each, for a lab that does not come up."""
    logs = {"launcher": folder / "launcher.log"}
    logs |= {f"{log.parts[-3]} {log.stem}": log for log in sorted(folder.glob("log/*/ambient-lab/*.log"))}
    lines = []
    for name, log in logs.items():
        if log.exists() and (words := log.read_text(errors="replace").strip().splitlines()):
            lines.append(f"  {name}: {words[-1][:200]}")
    return "\n".join(lines)


def wait(folder: Path, lab: Lab, api: Api, timeout: float, progress: Progress) -> None:
    """Wait for the lab whose state is in a folder; ``timeout``: seconds for all of it.

    Raises :class:`LabError` with the logs' last words when it comes up too late, or its launcher ends.
    """
    started = time.monotonic()
    steps: dict[str, Callable[[], bool]] = {"API answers": lambda: api.get("/readyz")[0] == 200}
    for node in lab.nodes:
        file = folder / "nodes" / node.name / "node.pid"
        steps[f"{node.name} Ready"] = partial(_node_is_ready, api, node.name, file)
    for what, holds in steps.items():
        while not holds():
            late = time.monotonic() - started > timeout
            if late or alive(folder / "launcher.pid") is None:
                reason = f"not after {timeout:g} s (<timeout>)" if late else "its process ended"
                raise LabError(f"{what}: {reason}. Logs in {folder}/log:\n{last_words(folder)}")
            time.sleep(POLL_SECONDS)
        progress(f"{what} after {time.monotonic() - started:.1f} s")

"""The pod network of a node: writes the CNI configuration and keeps a route to every other node's pods.

Runs in a pod of the host network on every node. Environment: ``NODE_NAME``; Kubernetes' own service variables.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONFIGURATION = Path("/etc/cni/net.d/10-pods.conflist")
RETRY_SECONDS = 1.0


def nodes() -> Iterator[dict[str, Any]]:
    """Every node, then each again whenever it changes (a watch without a version begins with what is there)."""
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], int(os.environ["KUBERNETES_SERVICE_PORT"])
    connection = http.client.HTTPSConnection(host, port, context=context)
    token = (ACCOUNT / "token").read_text()
    connection.request("GET", "/api/v1/nodes?watch=true", headers={"Authorization": f"Bearer {token}"})
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise OSError(f"the API answers {response.status} {response.reason}")
    for line in response:
        event = json.loads(line)
        if event["type"] in ("ADDED", "MODIFIED"):
            yield event["object"]


def configuration(subnet: str) -> dict[str, Any]:
    """Pods are routed, not bridged, as in the embedded cluster."""
    ipam = {
        "type": "host-local",
        "dataDir": "/run/cni-ipam",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    plugins: list[dict[str, Any]] = [
        {"type": "ptp", "ipMasq": False, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": plugins}


def connect(node: dict[str, Any]) -> None:
    """Take a node into the network: our own gets its configuration once, another one its route."""
    subnet = node["spec"].get("podCIDR")
    addresses = {item["type"]: item["address"] for item in node["status"].get("addresses", [])}
    if subnet is None or "InternalIP" not in addresses:
        return
    if node["metadata"]["name"] != os.environ["NODE_NAME"]:
        subprocess.run(["ip", "route", "replace", subnet, "via", addresses["InternalIP"]], check=True)
    elif not CONFIGURATION.exists():  # istio-cni adds itself to the file
        draft = CONFIGURATION.with_suffix(".draft")
        draft.write_text(json.dumps(configuration(subnet), indent=1))
        draft.rename(CONFIGURATION)
        print(f"pods of this node are in {subnet}", flush=True)


def main() -> None:
    while True:
        try:
            for node in nodes():
                connect(node)
        except (OSError, ValueError, http.client.HTTPException) as error:
            print(f"again in {RETRY_SECONDS} s: {error}", flush=True)
        time.sleep(RETRY_SECONDS)


if __name__ == "__main__":
    main()

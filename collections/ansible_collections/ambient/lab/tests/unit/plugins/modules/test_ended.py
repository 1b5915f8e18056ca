# Modules that are ended while they work: no key of the kubeconfig is in a file, neither meanwhile nor afterwards.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import pathlib
import socket
import time
import types

import pytest
from ansible_collections.ambient.lab.plugins.modules import claims_matrix, kiali_graph, ready
from ansible_collections.ambient.lab.tests.unit.fakes.graph import graph_claim
from ansible_collections.ambient.lab.tests.unit.fakes.objects import Object, claim
from ansible_collections.ambient.lab.tests.unit.fakes.program import start
from ansible_collections.ambient.lab.tests.unit.fakes.tls import Pair, encoded

EDGE = {"outcome": "edge", "protocol": "tcp"}


def _kubeconfig(folder: pathlib.Path, port: int) -> str:
    """For a server with TLS; OpenSSL reads the client's key from a file alone."""
    pair = Pair("admin")
    user = {"client-certificate-data": encoded(pair.certificate), "client-key-data": encoded(pair.key)}
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": encoded(pair.certificate)}
    content = {
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "admin", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "admin"}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(content))
    return str(folder / "kubeconfig")


@pytest.mark.parametrize(
    ("module", "options"),
    [
        # One that reads, one with threads, one that makes pods; all log in the same way.
        (ready, {"objects": [{"kind": "Node"}]}),
        (
            kiali_graph,
            {"claims": [graph_claim("a", expect=EDGE)], "traffic": [claim(source={"pod": "curl-allow"})]},
        ),
        (claims_matrix, {"file": "claims.yml", "namespaces": ["default"]}),
    ],
    ids=lambda item: item.__name__.rpartition(".")[2] if isinstance(item, types.ModuleType) else "",
)
def test_no_key_stays(tmp_path: pathlib.Path, module: types.ModuleType, options: Object) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        kubeconfig = _kubeconfig(tmp_path, silent.getsockname()[1])
        with start(module, {**options, "kubeconfig": kubeconfig}, TMPDIR=str(temporary)) as program:
            connection, _peer = silent.accept()
            assert [path for path in temporary.rglob("*") if path.is_file()] == []
            program.terminate()
            # Nobody waits for an answer then.
            time.sleep(0.2)
            silent.close()
            connection.close()
            program.communicate(timeout=20)
    assert program.returncode == 143
    assert [path for path in temporary.rglob("*") if path.is_file()] == []

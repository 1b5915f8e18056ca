# Reads from a Kubernetes API: one kept-alive connection pool, a timeout on everything, one-line errors.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import json
import re
import time
import traceback
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._errors import LabError

try:
    import kubernetes.client
    import kubernetes.config
    import kubernetes.stream
    import urllib3.exceptions
    import websocket
except ImportError:
    HAS_KUBERNETES = False
    KUBERNETES_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    HAS_KUBERNETES = True
    KUBERNETES_IMPORT_ERROR = None

# The same options as plugins/doc_fragments/_kube.py.
KUBE_SPEC: dict[str, dict[str, t.Any]] = {"kubeconfig": {"type": "path"}, "context": {"type": "str"}}
CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
MAX_OUTPUT = 4_194_304
_STDOUT, _STDERR, _ERROR = 1, 2, 3


class Kube:
    """A connection to one cluster. Its methods may be called from several threads at once.

    Args:
        kubeconfig: path, None for the client's usual places.
        context: of the kubeconfig, None for its current one.

    Raises:
        LabError: when the kubeconfig can't be used.
    """

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        self._configuration = kubernetes.client.Configuration()
        # One retry: an idle connection that the server has closed meanwhile is no failure.
        self._configuration.retries = urllib3.Retry(total=1, redirect=0)
        try:
            load: t.Any = kubernetes.config.load_kube_config
            load(
                config_file=kubeconfig,
                context=context,
                client_configuration=self._configuration,
                persist_config=False,
            )
        except (kubernetes.config.ConfigException, OSError, ValueError, TypeError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "the default kubeconfig"
            where += f", context {context}" if context else ""
            raise LabError(f"Can't use {where}: {_one_line(error)}") from error
        self.host = str(self._configuration.host)
        self._client = kubernetes.client.ApiClient(self._configuration)
        # websocket-client has no other way to bound the time of a connect that kubernetes.stream makes.
        websocket.setdefaulttimeout(READ_SECONDS)

    def get(self, path: str, **query: str) -> dict[str, t.Any] | None:
        """GET one path of the API; None where the answer is 404.

        Raises:
            LabError: when the API does not answer, or refuses.
        """
        headers: dict[str, str] = {"Accept": "application/json"}
        settings: t.Any = self._configuration.auth_settings()
        for setting in settings.values():
            if setting["in"] == "header" and setting["value"]:
                headers[setting["key"]] = setting["value"]
        url = self.host + path + ("?" + urllib.parse.urlencode(query) if query else "")
        try:
            response = self._client.rest_client.pool_manager.request(
                "GET",
                url,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise LabError(f"The cluster does not answer at {self.host}: {_root(error)}") from error
        if response.status == 404:
            return None
        if response.status != 200:
            raise LabError(f"The cluster at {self.host} answered GET {path} with HTTP {response.status}")
        body: dict[str, t.Any] = json.loads(response.data)
        return body

    def items(self, path: str, **query: str) -> list[dict[str, t.Any]]:
        """GET a list; empty where the API does not know the kind (its CRD is not installed)."""
        return list((self.get(path, **query) or {}).get("items") or [])

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        """Run a script with sh in a container.

        The exit status that the websocket carries is not used: kubernetes-client/python#2328.

        Args:
            timeout: seconds for all of it.

        Returns:
            Standard output, and what went wrong ("" where nothing did). Raises nothing.
        """
        # kubernetes.stream swaps a method of the client while it connects: each exec has a client of its own.
        api = kubernetes.client.CoreV1Api(kubernetes.client.ApiClient(self._configuration))
        deadline = time.monotonic() + timeout
        try:
            channel = kubernetes.stream.stream(
                api.connect_get_namespaced_pod_exec,
                pod,
                namespace,
                container=container,
                command=["sh", "-c", script],
                stdout=True,
                stderr=True,
                stdin=False,
                tty=False,
                _preload_content=False,
            )
        except (kubernetes.client.ApiException, websocket.WebSocketException, OSError) as error:
            return "", _one_line(error)
        try:
            return _drain(channel, deadline)
        except (websocket.WebSocketException, OSError, ValueError) as error:
            return "", _one_line(error)
        finally:
            channel.close()


def _drain(channel: t.Any, deadline: float) -> tuple[str, str]:
    stdout: list[str] = []
    size = 0
    errors = ""
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return "".join(stdout), "it did not end in time"
        is_open = channel.is_open()
        if is_open:
            channel.update(timeout=min(remaining, 1.0))
        stdout.append(channel.read_channel(_STDOUT))
        errors += channel.read_channel(_STDERR)
        size += len(stdout[-1])
        if size + len(errors) > MAX_OUTPUT:
            return "", f"more than {MAX_OUTPUT} characters of output"
        if not is_open:
            break
    status = channel.read_channel(_ERROR)
    return "".join(stdout), errors.strip()[:300] or _failure(status)


def _failure(status: str) -> str:
    """Message of the exec's own status; used to explain missing output, never for a verdict."""
    try:
        parsed = json.loads(status)
    except ValueError:
        return ""
    return "" if parsed.get("status") == "Success" else str(parsed.get("message", ""))[:300]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _root(error: BaseException) -> str:
    """The innermost reason of urllib3's nested errors, without the object's address."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _root(reason)
    return re.sub(r"^.*object at 0x[0-9a-f]+>: |^\S+\(host=.*?\): ", "", _one_line(error))

# Reads from a Kubernetes API: one kept-alive connection pool, a timeout on everything, one-line errors.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import ssl
import time
import traceback
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._errors import LabError

try:
    import kubernetes.client
    import kubernetes.config
    import urllib3.exceptions
    import websocket
    import yaml
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
_STDOUT, _STDERR, _STATUS = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer as it came, whatever its status. Names of headers are in lower case."""

    status: int
    headers: t.Mapping[str, str]
    body: bytes


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
        except (kubernetes.config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "the default kubeconfig"
            where += f", context {context}" if context else ""
            raise LabError(f"Can't use {where}: {_one_line(error)}") from error
        self.host = str(self._configuration.host)
        self._client = kubernetes.client.ApiClient(self._configuration)

    def get(self, path: str, **query: str) -> dict[str, t.Any] | None:
        """GET one path of the API; None where the answer is 404.

        Raises:
            LabError: when the API does not answer, or refuses.
        """
        data = self._read(path, query)
        body: dict[str, t.Any] | None = None if data is None else json.loads(data)
        return body

    def items(self, path: str, **query: str) -> list[dict[str, t.Any]]:
        """GET a list; empty where the API does not know the kind (its CRD is not installed)."""
        return list((self.get(path, **query) or {}).get("items") or [])

    def text(self, path: str, **query: str) -> str:
        """GET a body that is no JSON, for example a container's log; empty where the answer is 404."""
        return (self._read(path, query) or b"").decode("utf-8", "replace")

    def run(self, namespace: str, pod: str, container: str, script: str, timeout: float) -> tuple[str, str]:
        """Run a script with sh in a container.

        The exit status that the websocket carries is not used: kubernetes-client/python#2328.

        Args:
            timeout: seconds for all of it.

        Returns:
            Standard output, and what went wrong ("" where nothing did). Raises nothing.
        """
        deadline = time.monotonic() + timeout
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", part) for part in ("sh", "-c", script)]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urllib.parse.urlencode(query)}"
        try:
            # kubernetes.stream would do this without any timeout, and not from several threads.
            channel: t.Any = websocket.create_connection(
                re.sub("^http", "ws", self.host) + path,
                timeout=min(timeout, READ_SECONDS),
                header=self._headers(),
                subprotocols=["v4.channel.k8s.io"],
                sslopt=self._tls(),
                **self._proxy(),
            )
        except websocket.WebSocketBadStatusException as error:
            return "", _refusal(error)
        except (websocket.WebSocketException, OSError) as error:
            return "", _one_line(error)
        try:
            return _drain(channel, deadline)
        except (websocket.WebSocketException, OSError) as error:
            return "", _one_line(error)
        finally:
            channel.shutdown()

    def ask(self, path: str, **query: str) -> Answer:
        """GET one path of the API, or of what stands behind its proxies, and take any answer.

        Raises:
            LabError: when the API does not answer at all.
        """
        pool = self._client.rest_client.pool_manager
        try:
            return fetch(pool, self.host + path, query, self._headers())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise LabError(f"The cluster does not answer at {self.host}: {_root(error)}") from error

    def _read(self, path: str, query: t.Mapping[str, str]) -> bytes | None:
        answer = self.ask(path, **query)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise LabError(f"The cluster at {self.host} answered GET {path} with HTTP {answer.status}")
        return answer.body

    def _headers(self) -> dict[str, str]:
        """What proves the user to the API; the client refreshes tokens while it is asked."""
        settings: t.Any = self._configuration.auth_settings()
        return {
            str(setting["key"]): str(setting["value"])
            for setting in settings.values()
            if setting["in"] == "header" and setting["value"]
        }

    def _tls(self) -> dict[str, t.Any]:
        configuration = self._configuration
        if not configuration.verify_ssl:
            options: dict[str, t.Any] = {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
        else:
            options = {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": configuration.ssl_ca_cert}
            if configuration.assert_hostname is not None:
                options["check_hostname"] = configuration.assert_hostname
        options["certfile"] = configuration.cert_file
        options["keyfile"] = configuration.key_file
        options["server_hostname"] = getattr(configuration, "tls_server_name", None)
        return {key: value for key, value in options.items() if value is not None}

    def _proxy(self) -> dict[str, t.Any]:
        if not self._configuration.proxy:
            return {}
        parts = urllib.parse.urlsplit(self._configuration.proxy)
        return {"http_proxy_host": parts.hostname, "http_proxy_port": parts.port, "proxy_type": parts.scheme}


class Web:
    """GET requests to an address outside of the Kubernetes API; the user's credentials for it stay at home.

    Args:
        url: what every path is appended to.
    """

    def __init__(self, url: str) -> None:
        self.host = url.rstrip("/")
        self._pool: t.Any = urllib3.PoolManager(retries=urllib3.Retry(total=1, redirect=0))

    def ask(self, path: str, **query: str) -> Answer:
        """GET one path and take any answer.

        Raises:
            LabError: when nobody answers.
        """
        try:
            return fetch(self._pool, self.host + path, query, {})
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise LabError(f"Nobody answers at {self.host}: {_root(error)}") from error


def fetch(pool: t.Any, url: str, query: t.Mapping[str, str], headers: t.Mapping[str, str]) -> Answer:
    """GET a URL through a urllib3 pool, without cookies and without following redirects.

    Raises:
        urllib3.exceptions.HTTPError: when nobody answers.
    """
    response = pool.request(
        "GET",
        url + ("?" + urllib.parse.urlencode(query) if query else ""),
        headers={"Accept": "application/json, */*", **headers},
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        redirect=False,
    )
    names = {str(name).lower(): str(value) for name, value in response.headers.items()}
    return Answer(int(response.status), names, bytes(response.data))


def kubectl(params: t.Mapping[str, t.Any]) -> str:
    """The command with which the user reaches the same cluster as a module with these parameters."""
    command = ["kubectl"]
    for option in ("kubeconfig", "context"):
        if params[option]:
            command += [f"--{option}", str(params[option])]
    return shlex.join(command)


def _drain(channel: t.Any, deadline: float) -> tuple[str, str]:
    """Read an exec's channels to their end (subprotocol v4.channel.k8s.io: a frame's first byte is its channel)."""
    read = {_STDOUT: bytearray(), _STDERR: bytearray(), _STATUS: bytearray()}
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return _text(read[_STDOUT]), "it did not end in time"
        channel.settimeout(remaining)
        try:
            opcode, frame = channel.recv_data()
        except websocket.WebSocketTimeoutException:
            continue
        except websocket.WebSocketConnectionClosedException:
            return _text(read[_STDOUT]), "the connection was cut"
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        if frame and frame[0] in read:
            read[frame[0]] += frame[1:]
        if sum(len(data) for data in read.values()) > MAX_OUTPUT:
            return "", f"more than {MAX_OUTPUT} bytes of output"
    return _text(read[_STDOUT]), _text(read[_STDERR]).strip()[:300] or _failure(_text(read[_STATUS]))


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace")


def _refusal(error: t.Any) -> str:
    """Why the API refused an exec: its own message where it gives one."""
    try:
        message = str(json.loads(error.resp_body)["message"])
    except (ValueError, KeyError, TypeError):
        message = "no reason given"
    return f"HTTP {error.status_code}: {' '.join(message.split())[:300]}"


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

# Speaks to a Kubernetes API: one kept-alive connection pool, a timeout on everything, one-line errors.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import json
import os
import re
import shlex
import ssl
import time
import traceback
import typing as t
import urllib.parse

from ansible_collections.ambient.lab.plugins.module_utils._cluster.channel import (
    WEBSOCKET_IMPORT_ERROR,
    Answer,
    ChannelError,
    Heard,
    Opening,
    ask_through,
    drain,
    feed,
    status_message,
)
from ansible_collections.ambient.lab.plugins.module_utils._common.errors import LabError

try:
    import kubernetes.client
    import kubernetes.config
    import urllib3.exceptions
    import yaml
except ImportError:
    KUBERNETES_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    # Who leaves a certificate unchecked has said so in the kubeconfig, and need not hear it with each request.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    # The client brings it along; without it nothing can run in a pod.
    KUBERNETES_IMPORT_ERROR = WEBSOCKET_IMPORT_ERROR

# The same options as plugins/doc_fragments/_kube.py.
KUBE_SPEC: dict[str, dict[str, t.Any]] = {"kubeconfig": {"type": "path"}, "context": {"type": "str"}}
CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
APPLY = "application/apply-patch+yaml"
START = "start it (a lab with `ansible-playbook site.yml --tags cluster`), or use another kubeconfig"


class Kube:
    """A connection to one cluster. Its methods may be called from several threads at once.

    Args:
        kubeconfig: path, None for the client's usual places.
        context: of the kubeconfig, None for its current one.
        folder: for the keys, which the client library wants as files. It removes them when the interpreter ends; who
            is ended otherwise names a folder that is removed.

    Raises:
        LabError: when the kubeconfig can't be used.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, folder: str | None = None) -> None:
        self._configuration = kubernetes.client.Configuration()
        # One retry: an idle connection that the server has closed meanwhile is no failure.
        self._configuration.retries = urllib3.Retry(total=1, redirect=0)
        try:
            load: t.Any = kubernetes.config.load_kube_config
            load(
                # The client library reads the variable when it is imported; a task may set it later.
                config_file=kubeconfig or os.environ.get("KUBECONFIG"),
                context=context,
                client_configuration=self._configuration,
                persist_config=False,
                temp_file_path=folder,
            )
        except (kubernetes.config.ConfigException, yaml.YAMLError, OSError, ValueError, TypeError) as error:
            where = f"kubeconfig {kubeconfig}" if kubeconfig else "the default kubeconfig"
            where += f", context {context}" if context else ""
            advice = "correct it, or name another with kubeconfig and context"
            raise LabError(f"Can't use {where}: {_one_line(error)}; {advice}") from error
        self.host = str(self._configuration.host)
        self._client = kubernetes.client.ApiClient(self._configuration)

    def get(self, path: str, **query: str) -> dict[str, t.Any] | None:
        """GET one path of the API; None where the answer is 404.

        Raises:
            LabError: when the API does not answer, or refuses.
        """
        data = self._read(path, query)
        if data is None:
            return None
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            said = f"{self.host} is no Kubernetes API: it answered GET {path} with something else than a JSON object"
            raise LabError(f"{said}; correct the server in the kubeconfig")
        return body

    def items(self, path: str, **query: str) -> list[dict[str, t.Any]]:
        """GET a list; empty where the API does not know the kind (its CRD is not installed)."""
        return list((self.get(path, **query) or {}).get("items") or [])

    def text(self, path: str, **query: str) -> str:
        """GET a body that is no JSON, for example a container's log; empty where the answer is 404."""
        return (self._read(path, query) or b"").decode("utf-8", "replace")

    def run(
        self, namespace: str, pod: str, container: str, script: str, timeout: float, heard: Heard | None = None
    ) -> tuple[str, str]:
        """Run a script with sh in a container.

        The shell reads it from standard input: a command stands in the API's audit log (requestURI), in logs of proxies
        and in process lists. The exit status that the websocket carries is not used: kubernetes-client/python#2328.

        Args:
            timeout: seconds for all of it.
            heard: is given each piece of standard output when it arrives, which is not kept then. True from it ends
                the run, and a script that writes on gets SIGPIPE.

        Returns:
            Standard output, and what went wrong ("" where nothing did). Raises nothing but what `heard` raises.
        """
        deadline = time.monotonic() + timeout
        query = [("container", container), ("stdin", "true"), ("stdout", "true"), ("stderr", "true")]
        query += [("command", "sh"), ("command", "-s")]
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/exec?{urllib.parse.urlencode(query)}"
        try:
            channel = self._opening().channel(path, min(timeout, READ_SECONDS))
        except ChannelError as error:
            return "", str(error)
        feed(channel, shell_input(script), deadline)
        return drain(channel, deadline, heard)

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET a path from what listens on a port of a pod, even if only on its localhost.

        Args:
            path: with its query.

        Raises:
            LabError: when the port-forward is refused, or no whole answer comes in time.
        """
        deadline = time.monotonic() + READ_SECONDS
        where = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
        try:
            return ask_through(self._opening().channel(where, READ_SECONDS), f"localhost:{port}", path, deadline)
        except ChannelError as error:
            raise LabError(f"Can't GET {path} from port {port} of pod {namespace}/{pod}: {error}") from error

    def ask(self, path: str, **query: str) -> Answer:
        """GET one path of the API, or of what stands behind its proxies, and take any answer.

        Raises:
            LabError: when the API does not answer at all.
        """
        return self._request("GET", path, query, {}, None)

    def send(
        self,
        method: str,
        path: str,
        body: t.Mapping[str, t.Any] | None = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Answer:
        """POST, PATCH or DELETE one path of the API, and take any answer.

        Args:
            body: sent as JSON, which is YAML too: with APPLY as content_type it is a server-side apply.
            query: for example fieldManager.

        Raises:
            LabError: when the API does not answer at all.
        """
        data = None if body is None else json.dumps(body, default=str).encode()
        headers = {} if body is None else {"Content-Type": content_type}
        return self._request(method, path, query, headers, data)

    def _request(
        self,
        method: str,
        path: str,
        query: t.Mapping[str, str],
        headers: t.Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        pool = self._client.rest_client.pool_manager
        try:
            return fetch(pool, self.host + path, query, {**headers, **self._headers()}, method, body)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise LabError(f"The cluster does not answer at {self.host}: {_root(error)}; {START}") from error

    def _read(self, path: str, query: t.Mapping[str, str]) -> bytes | None:
        answer = self.ask(path, **query)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise LabError(refusal(answer, f"The cluster at {self.host} answered GET {path} with HTTP {answer.status}"))
        return answer.body

    def _opening(self) -> Opening:
        return Opening(re.sub("^http", "ws", self.host), self._headers(), self._tls(), self._proxy())

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


def fetch(
    pool: t.Any,
    url: str,
    query: t.Mapping[str, str],
    headers: t.Mapping[str, str],
    method: str = "GET",
    body: bytes | None = None,
) -> Answer:
    """Ask for a URL through a urllib3 pool, without cookies and without following redirects.

    Raises:
        urllib3.exceptions.HTTPError: when nobody answers.
    """
    response = pool.request(
        method,
        url + ("?" + urllib.parse.urlencode(query) if query else ""),
        body=body,
        headers={"Accept": "application/json, */*", **headers},
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        redirect=False,
    )
    names = {str(name).lower(): str(value) for name, value in response.headers.items()}
    return Answer(int(response.status), names, bytes(response.data))


def refusal(answer: Answer, otherwise: str) -> str:
    """What the API says of a right that is missing, and what to do about it; `otherwise` for every other answer."""
    said = status_message(answer.body)
    if not said:
        return otherwise
    return missing_right(said) if answer.status == 403 else f"{otherwise}: {said}"


def missing_right(said: str) -> str:
    """The API's words for a right that is missing, and what to do about it."""
    return (
        f"{said.rstrip('.')}. Give the kubeconfig's user this right (for claims docs/how-to/own-policies.md#rights, "
        "for the lab docs/how-to/rbac.yaml), or use another kubeconfig"
    )


def shell_input(script: str) -> bytes:
    """What a shell needs on its standard input to run a script and end, even if that stays open.

    A container's SHELLOPTS can make bash print what it reads and runs, and put functions into the environment of every
    program (bash(1), set -a): that is switched off first. A shell runs a group only when it has all of it, and no
    command in it may read what follows.
    """
    return f"set +avx\n{{\n{script}\n}} </dev/null\nexit\n".encode()


def kubectl(params: t.Mapping[str, t.Any]) -> str:
    """The command with which the user reaches the same cluster as a module with these parameters."""
    command = ["kubectl"]
    for option in ("kubeconfig", "context"):
        if params[option]:
            command += [f"--{option}", str(params[option])]
    return shlex.join(command)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _root(error: BaseException) -> str:
    """The innermost reason of urllib3's nested errors, without the object's address."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _root(reason)
    return re.sub(r"^.*object at 0x[0-9a-f]+>: |^\S+\(host=.*?\): ", "", _one_line(error))

# Speaks to a Kubernetes API: one kept-alive connection pool, a timeout on everything, one-line errors.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import re
import shlex
import ssl
import threading
import time
import traceback
import typing as t
import urllib.parse

from .._common.errors import LabError, Slow
from .access import Identity, Server, tls_context
from .api import listed
from .channel import (
    WEBSOCKET_IMPORT_ERROR,
    Answer,
    ChannelError,
    Heard,
    ask_through,
    drain,
    feed,
    open_channel,
    status_message,
)
from .kubeconfig import PROXY_URL, YAML_IMPORT_ERROR, read_access
from .login import LOG_IN

try:
    import urllib3
    import urllib3.exceptions
except ImportError:
    KUBERNETES_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    # Who leaves a certificate unchecked has said so in the kubeconfig, and need not hear it with each request.
    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    # The Kubernetes client brings them all along. Itself it is imported where a kubeconfig has an auth-provider.
    KUBERNETES_IMPORT_ERROR = YAML_IMPORT_ERROR or WEBSOCKET_IMPORT_ERROR

# The same options as plugins/doc_fragments/_kube.py.
KUBE_SPEC: dict[str, dict[str, t.Any]] = {"kubeconfig": {"type": "path"}, "context": {"type": "str"}}
CONNECT_SECONDS = 5.0
READ_SECONDS = 15.0
# Connections that are kept for the next requests; as many threads ask at once.
_KEPT = 32
APPLY = "application/apply-patch+yaml"
# Ends of messages; who made the cluster knows more.
START = "start it, or use another kubeconfig"
RIGHT = "Give the kubeconfig's user this right, or use another kubeconfig"


class Kube:
    """A connection to one cluster. Its methods may be called from several threads at once.

    Args:
        kubeconfig: path, None for KUBECONFIG, then ~/.kube/config, then the ServiceAccount of the pod it runs in.
        context: of the kubeconfig, None for its current one.

    Raises:
        LabError: when the kubeconfig can't be used, or its user can't log in; by each request when the API does not
            answer, and by those that don't take any answer when it refuses.
    """

    def __init__(self, kubeconfig: str | None, context: str | None) -> None:
        library: t.Any = urllib3
        if library.__version__.startswith("1."):
            # It puts headers with the same name into one: two groups to act as would be another group.
            raise LabError(f"urllib3 {library.__version__} is too old: install a newer one (pip install 'urllib3>=2')")
        self._access = read_access(kubeconfig, context)
        self.host = self._access.server.url
        self._lock = threading.Lock()
        self._pooled: tuple[ssl.SSLContext | None, t.Any] | None = None

    def get(self, path: str, **query: str) -> dict[str, t.Any] | None:
        """GET one path of the API; None where the answer is 404."""
        answer = self._read(path, query)
        found = answer.json() if answer else None
        if answer and found is None:
            said = f"{self.host} is no Kubernetes API: it answered GET {path} with something else than a JSON object"
            raise LabError(f"{said}; correct the server in the kubeconfig")
        return found

    def items(self, path: str, **query: str) -> list[dict[str, t.Any]]:
        """GET a list, page by page; empty where the API does not know the kind (its CRD is not installed)."""
        return listed(self.get, path, **query) or []

    def text(self, path: str, **query: str) -> str:
        """GET a body that is no JSON, for example a container's log; empty where the answer is 404."""
        answer = self._read(path, query)
        return answer.body.decode("utf-8", "replace") if answer else ""

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
            channel = open_channel(self._access, path, min(timeout, READ_SECONDS))
        except ChannelError as error:
            return "", str(error)
        feed(channel, shell_input(script), deadline)
        return drain(channel, deadline, heard)

    def forward(self, namespace: str, pod: str, port: int, path: str) -> Answer:
        """GET a path, with its query, from what listens on a port of a pod, even if only on its localhost.

        Raises:
            LabError: when the port-forward is refused, or no whole answer comes in time.
        """
        deadline = time.monotonic() + READ_SECONDS
        where = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
        try:
            channel = open_channel(self._access, where, READ_SECONDS)
            return ask_through(channel, f"localhost:{port}", path, deadline)
        except ChannelError as error:
            raise LabError(f"Can't GET {path} from port {port} of pod {namespace}/{pod}: {error}") from error

    def ask(self, path: str, **query: str) -> Answer:
        """GET one path of the API, or of what stands behind its proxies, and take any answer."""
        return self._request("GET", path, query)

    def send(
        self,
        method: str,
        path: str,
        body: t.Mapping[str, t.Any] | None = None,
        content_type: str = "application/json",
        **query: str,
    ) -> Answer:
        """POST, PATCH or DELETE one path of the API, and take any answer.

        body: sent as JSON, which is YAML too: with APPLY as content_type it is a server-side apply.
        """
        data = None if body is None else json.dumps(body, default=str).encode()
        return self._request(method, path, query, data, content_type)

    def _request(
        self, method: str, path: str, query: t.Mapping[str, str], body: bytes | None = None, content_type: str = ""
    ) -> Answer:
        content = [("Content-Type", content_type)] if body is not None else []

        def answer(identity: Identity) -> Answer:
            pairs = [*content, *identity.headers]
            return fetch(self._pool(identity), self.host + path, query, pairs, method, body)

        try:
            identity = self._access.identity()
            found = answer(identity)
            renewed = found.status == 401 and self._access.renew(identity)
            return answer(self._access.identity()) if renewed else found
        except (urllib3.exceptions.HTTPError, OSError) as error:
            # Also of a TLS handshake: urllib3 calls both a read.
            kind = Slow if isinstance(_root(error), urllib3.exceptions.ReadTimeoutError) else LabError
            raise kind(_unreachable(self._access.server, error)) from error

    def _pool(self, identity: Identity) -> t.Any:
        """Connections with the identity's certificate: one that is open stays what it was made as."""
        with self._lock:
            if self._pooled is None or self._pooled[0] is not identity.tls:
                self._pooled = (identity.tls, _new_pool(identity.tls, self._access.server))
            return self._pooled[1]

    def _read(self, path: str, query: t.Mapping[str, str]) -> Answer | None:
        answer = self.ask(path, **query)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise LabError(refusal(answer, f"The cluster at {self.host} answered GET {path} with HTTP {answer.status}"))
        return answer


class Web:
    """GET requests to an address outside of the Kubernetes API; the user's credentials for it stay at home.

    url: what every path is appended to.
    """

    def __init__(self, url: str) -> None:
        self.host = url.rstrip("/")
        self._pool: t.Any = _new_pool(tls_context() if self.host.startswith("https:") else None)

    def ask(self, path: str, **query: str) -> Answer:
        """GET one path and take any answer; LabError when nobody answers."""
        try:
            return fetch(self._pool, self.host + path, query, ())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise LabError(f"Nobody answers at {self.host}: {_reason(error)}") from error


def fetch(
    pool: t.Any,
    url: str,
    query: t.Mapping[str, str],
    headers: t.Iterable[tuple[str, str]],
    method: str = "GET",
    body: bytes | None = None,
) -> Answer:
    """Ask for a URL through a urllib3 pool, without cookies and without following redirects.

    headers: a name may stand in it more than once.

    Raises:
        urllib3.exceptions.HTTPError: when nobody answers.
    """
    given = urllib3.HTTPHeaderDict({"Accept": "application/json, */*"})
    for name, value in headers:
        # http.client writes headers in Latin-1; these bytes are UTF-8 then, as in a websocket's request.
        given.add(name, value.encode().decode("latin-1"))
    response = pool.request(
        method,
        url + ("?" + urllib.parse.urlencode(query) if query else ""),
        body=body,
        headers=given,
        timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
        redirect=False,
    )
    names = {str(name).lower(): str(value) for name, value in response.headers.items()}
    return Answer(int(response.status), names, bytes(response.data))


def refusal(answer: Answer, otherwise: str) -> str:
    """What the API says of a missing right or login, and what to do about it; `otherwise` for every other answer."""
    said = status_message(answer.body)
    if answer.status == 401:
        return f"{otherwise}: {said or 'no reason given'}; {LOG_IN}"
    if not said:
        return otherwise
    return missing_right(said) if answer.status == 403 else f"{otherwise}: {said}"


def missing_right(said: str) -> str:
    """The API's words for a right that is missing, and what to do about it."""
    return f"{said.rstrip('.')}. {RIGHT}"


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


def _new_pool(tls: ssl.SSLContext | None, server: Server | None = None) -> t.Any:
    """Kept-alive connections, with the proxy of a server and the name of its certificate; tls: None for no TLS."""
    # One retry: an idle connection that the server has closed meanwhile is no failure. A Retry-After has no limit.
    retries = urllib3.Retry(total=1, redirect=0, respect_retry_after_header=False)
    options: dict[str, t.Any] = {"retries": retries, "maxsize": _KEPT}
    if tls:
        options |= {"ssl_context": tls, "cert_reqs": tls.verify_mode}
    if tls and server and server.name:
        options["server_hostname"] = server.name
    proxy = server.proxy if server else None
    if proxy is None:
        return urllib3.PoolManager(**options)
    if proxy.is_socks:
        from urllib3.contrib.socks import SOCKSProxyManager

        return SOCKSProxyManager(str(proxy), proxy.user or None, proxy.password or None, **options)
    return urllib3.ProxyManager(str(proxy), proxy_headers=proxy.headers(), **options)


def _unreachable(server: Server, error: BaseException) -> str:
    """Why the API gives no answer, and what to do about it."""
    root, said = _root(error), _reason(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return (
            f"The certificate of {server.url} can't be verified: {root.verify_message}; correct the kubeconfig's "
            "certificate-authority-data (or certificate-authority), for another name its server or tls-server-name"
        )
    # Without an end that is said it is a server that is not there, behind a load balancer.
    if isinstance(root, ssl.SSLError) and not isinstance(root, ssl.SSLEOFError):
        return f"TLS with {server.url} fails: {said}; correct the kubeconfig's server, or its user's client certificate"
    if server.proxy is None:
        return f"The cluster does not answer at {server.url}: {said}; {START}"
    where = f"{server.url} through the proxy {server.proxy} of {server.proxy.source}"
    advice = "correct it" if server.proxy.source == PROXY_URL else "correct it, or put the cluster's host into NO_PROXY"
    return f"No answer from {where}: {said}; {advice}"


def _root(error: BaseException) -> BaseException:
    """The innermost of urllib3's nested errors."""
    inner = (getattr(error, "reason", None), *error.args)
    return next((_root(one) for one in inner if isinstance(one, BaseException)), error)


def _reason(error: BaseException) -> str:
    """What the innermost error says, without an object's address."""
    said = " ".join(str(_root(error)).split())[:300]
    return re.sub(r"^.*object at 0x[0-9a-f]+>: |^\S+\(host=.*?\): ", "", said)

# Who a kubeconfig's user is for the API: a credential that stays, one that a file, a login plugin or a provider renews.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import re
import signal
import subprocess
import typing as t

from .._common.errors import LabError
from .._common.text import printable

PLUGIN_SECONDS = 60.0
# A credential is renewed this long before it ends (client-go, transport/token_source.go: leeway).
LEEWAY = datetime.timedelta(seconds=10)
LOG_IN = "log in again, or use another kubeconfig"
_SHOWN = 300


@dataclasses.dataclass(frozen=True)
class Credential:
    """What proves a user: the Authorization header's value, "" for none.

    certificate: the client's certificates and their key, PEM; b"" for none.
    """

    authorization: str = ""
    certificate: bytes = b""


class Login:
    """A user whose credential stays as it is."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    def credential(self) -> Credential:
        """What proves the user now.

        Raises:
            LabError: when there is none any more.
        """
        return self._credential

    def renew(self) -> bool:
        """Whether there is another credential in place of the last one, which the API refuses.

        Raises:
            LabError: when a new one can't be had.
        """
        before = self._credential
        return self.credential() != before


class TokenFile(Login):
    """A user whose token stands in a file, which somebody else replaces: for a pod's ServiceAccount the kubelet.

    credential: with the token for as long as the file can't be read.
    """

    def __init__(self, path: str, credential: Credential) -> None:
        super().__init__(credential)
        self._path = path

    def credential(self) -> Credential:
        """With the token that is in the file now."""
        with contextlib.suppress(OSError, ValueError):
            self._credential = dataclasses.replace(self._credential, authorization=bearer(read_token(self._path)))
        return self._credential


class Plugin(Login):
    """A user whose credential a program prints (`exec` of the kubeconfig's user).

    The protocol: https://kubernetes.io/docs/reference/config-api/client-authentication.v1/. Its answer is kept until
    its expirationTimestamp, or until the API refuses it, as client-go does (plugin/pkg/client/auth/exec/exec.go).

    Args:
        call: the `exec` part.
        folder: of the kubeconfig; a command with a slash is relative to it.
        cluster: what a plugin hears of the cluster that asks for it (`provideClusterInfo`).

    Raises:
        ValueError: when the part is not what it must be.
    """

    def __init__(self, call: t.Mapping[str, t.Any], folder: str, cluster: t.Mapping[str, t.Any]) -> None:
        super().__init__(Credential())
        command, version = call.get("command"), call.get("apiVersion")
        arguments, variables = call.get("args") or [], call.get("env") or []
        if not (isinstance(command, str) and command and isinstance(version, str)):
            raise ValueError("the exec of its user needs command and apiVersion")
        if call.get("interactiveMode") == "Always":
            raise ValueError(
                f"the login plugin {command} wants a terminal (interactiveMode: Always), and there is none"
            )
        try:
            self._environment = {str(item["name"]): str(item["value"]) for item in variables}
            self._command = [os.path.join(folder, command) if "/" in command else command, *map(str, arguments)]
        except (KeyError, TypeError) as error:
            raise ValueError("the exec of its user has args or env that are no lists, or env without names") from error
        self._hint = str(call.get("installHint") or "")
        spec = {"interactive": False, **({"cluster": dict(cluster)} if call.get("provideClusterInfo") else {})}
        self._version = version
        self._info = json.dumps({"apiVersion": version, "kind": "ExecCredential", "spec": spec}, default=str)
        self._ends: datetime.datetime | None = None

    def credential(self) -> Credential:
        """What the plugin printed; it runs where it has not, and where that has ended."""
        now = datetime.datetime.now(datetime.UTC)
        if self._credential == Credential() or (self._ends and now >= self._ends - LEEWAY):
            self.renew()
        return self._credential

    def renew(self) -> bool:
        """Run the plugin.

        Raises:
            LabError: with the plugin's own words, when it gives no credential.
        """
        stdout, stderr = self._output()
        try:
            self._credential, self._ends = _read_answer(stdout, self._version)
        except ValueError as error:
            raise self._failed(str(error), stderr, stdout) from error
        return True

    def _output(self) -> tuple[str, str]:
        environment = {**os.environ, **self._environment, "KUBERNETES_EXEC_INFO": self._info}
        try:
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                encoding="utf-8",
                errors="replace",
                # What it starts is ended with it.
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise self._failed(
                "can't be started", f"{getattr(error, 'strerror', '') or error}. {self._hint}"
            ) from error
        with process:
            try:
                stdout, stderr = process.communicate(timeout=PLUGIN_SECONDS)
            except BaseException as error:
                # Also when this program is ended.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    raise self._failed(f"does not end within {PLUGIN_SECONDS:g} s", "") from error
                raise
        if process.returncode:
            raise self._failed(f"failed with exit status {process.returncode}", stderr, stdout)
        return stdout, stderr

    def _failed(self, how: str, stderr: str, stdout: str = "") -> LabError:
        # What is long in its output may be a token. Its arguments are not shown: some plugins get a secret so.
        said = printable(stderr or re.sub(r"\S{32,}", "...", stdout))[:_SHOWN]
        return LabError(f"The kubeconfig's login plugin {self._command[0]} {how}{': ' if said else ''}{said}; {LOG_IN}")


class Provider(Login):
    """A user of a kind that the Python client logs in (`auth-provider`: oidc, gcp).

    credential: what else proves the user.

    Raises:
        LabError: when the client can't log in.
    """

    def __init__(self, provider: t.Mapping[str, t.Any], credential: Credential) -> None:
        super().__init__(credential)
        self._name = str(provider.get("name"))
        user = {"name": "user", "user": {"auth-provider": dict(provider)}}
        cluster = {"name": "cluster", "cluster": {"server": "http://localhost"}}
        context = {"name": "context", "context": {"cluster": "cluster", "user": "user"}}
        content = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "context"}
        try:
            import kubernetes.client
            import kubernetes.config

            self._configuration: t.Any = kubernetes.client.Configuration()
            load: t.Any = kubernetes.config.load_kube_config_from_dict
            load(content, client_configuration=self._configuration, persist_config=False)
        except Exception as error:  # what its own libraries raise is their affair
            raise self._failed(error) from error

    def credential(self) -> Credential:
        """With a token that the client refreshes where it can."""
        try:
            settings = self._configuration.auth_settings().values()
        except Exception as error:  # as above
            raise self._failed(error) from error
        values = [str(setting["value"]) for setting in settings if setting["in"] == "header" and setting["value"]]
        if not values:
            raise self._failed("it gives no token")
        self._credential = dataclasses.replace(self._credential, authorization=values[0])
        return self._credential

    def _failed(self, error: object) -> LabError:
        said = printable(f"{error}")[:_SHOWN] or type(error).__name__
        return LabError(f"The kubeconfig's auth-provider {self._name} can't log in: {said}; {LOG_IN}")


def read_token(path: str) -> str:
    """The token in a file; OSError when it can't be read, ValueError when nothing is in it."""
    with open(path, encoding="utf-8") as file:
        token = file.read().strip()
    if not token:
        raise ValueError(f"{path} is empty, and must hold a token")
    return token


def bearer(token: str) -> str:
    """The Authorization header for a token (RFC 6750); ValueError when no header can hold it."""
    return header_value(f"Bearer {token}", "the token")


def header_value(value: str, what: str) -> str:
    """A text that may stand in a header (RFC 9110, section 5.5); ValueError, with its name, for control characters."""
    if not value.isprintable():
        raise ValueError(f"{what} has a line break or another control character")
    return value


def _read_answer(text: str, version: str) -> tuple[Credential, datetime.datetime | None]:
    """A plugin's ExecCredential, and when it ends."""
    try:
        answer = json.loads(text)
        status = answer["status"]
        names = ("token", "clientCertificateData", "clientKeyData", "expirationTimestamp")
        token, certificate, key, ends = (status.get(name) or "" for name in names)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError("prints no ExecCredential with a status" if text.strip() else "prints nothing") from error
    if answer.get("apiVersion") != version:
        raise ValueError(f"answers in {answer.get('apiVersion')}, and the kubeconfig says {version}")
    if not all(isinstance(value, str) for value in (token, certificate, key, ends)):
        raise ValueError("prints something else than texts in the status of its ExecCredential")
    if bool(certificate) != bool(key) or not (token or certificate):
        raise ValueError("prints neither a token nor a certificate with its key")
    try:
        end = datetime.datetime.fromisoformat(ends) if ends else None
    except ValueError as error:
        raise ValueError("prints an expirationTimestamp that is no time of RFC 3339") from error
    if end and not end.tzinfo:
        end = end.replace(tzinfo=datetime.UTC)
    pair = f"{certificate}\n{key}".encode() if certificate else b""
    return Credential(bearer(token) if token else "", pair), end

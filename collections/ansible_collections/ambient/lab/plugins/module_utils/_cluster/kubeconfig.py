# What a kubeconfig says of the API and of its user, read as kubectl reads it.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import dataclasses
import os
import re
import traceback
import typing as t
import urllib.parse

from .._common.errors import LabError
from .._common.text import place_of, printable
from .access import Access, Server, address
from .login import Credential, Login, Plugin, Provider, TokenFile, bearer, header_value, read_token
from .proxy import environment_proxy, parse_proxy

try:
    import yaml
except ImportError:
    YAML_IMPORT_ERROR: str | None = traceback.format_exc()
else:
    YAML_IMPORT_ERROR = None

Object = t.Mapping[str, t.Any]
# Where the kubelet puts token and CA into a pod.
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT = "~/.kube/config"
PROXY_URL = "the kubeconfig's proxy-url"
_SHOWN = 300


def read_access(kubeconfig: str | None, context: str | None) -> Access:
    """The way to the API that a kubeconfig names, or where there is none the one of the pod that this runs in.

    Args:
        kubeconfig: path, None for KUBECONFIG and then ~/.kube/config. Several are separated as in PATH.
        context: of the kubeconfig, None for its current one.

    Raises:
        LabError: when it can't be used, or its user can't log in.
    """
    where = f"kubeconfig {kubeconfig}" if kubeconfig else "the default kubeconfig"
    where += f", context {context}" if context else ""
    try:
        current, entries = _entries(kubeconfig)
        # Whether the kubelet has given this process a way to the API (client-go, client_config.go: Possible).
        variables = map(os.environ.get, ("KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"))
        is_pod = all(variables) and os.path.isfile(os.path.join(SERVICE_ACCOUNT, "token"))
        if current or entries:
            return _access(*_chosen(entries, context or current))
        if context or not is_pod:
            raise ValueError(f"nothing is in {os.environ.get('KUBECONFIG') or DEFAULT}")
        where = "the ServiceAccount of this pod"
        return _pod()
    except yaml.YAMLError as error:
        raise LabError(f"Can't use {where}: it is no YAML{place_of(error)}; correct it") from None
    except (OSError, ValueError) as error:
        advice = "correct it, or name another with kubeconfig and context"
        raise LabError(f"Can't use {where}: {printable(str(error))[:_SHOWN]}; {advice}") from error


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A cluster, a user or a context, and the folder of the file that it is from."""

    values: Object
    folder: str

    def text(self, key: str) -> str:
        """A text, "" where it is not there."""
        return _value(self.values, key, str)

    def path(self, key: str) -> str:
        """A path, which is relative to the folder; "" where it is not there."""
        path = self.text(key)
        return os.path.join(self.folder, path) if path else ""

    def content(self, key: str) -> bytes | None:
        """What stands in it with base64 (KEY-data), or in a file that it names."""
        if encoded := self.text(f"{key}-data"):
            try:
                return base64.b64decode(re.sub("[\r\n]", "", encoded), validate=True)
            except ValueError as error:
                raise ValueError(f"{key}-data is not base64") from error
        if path := self.path(key):
            with open(path, "rb") as file:
                return file.read()
        return None


# Clusters, users and contexts by kind and name.
_Entries = dict[tuple[str, str], _Entry]


def _entries(kubeconfig: str | None) -> tuple[str, _Entries]:
    """The current context, and what stands in all files; both empty where the usual ones are not there or empty.

    Of a name that several files have the first counts, as with kubectl.
    """
    given = kubeconfig or os.environ.get("KUBECONFIG") or DEFAULT
    paths = [given] if os.path.exists(given) else [os.path.expanduser(path) for path in given.split(os.pathsep) if path]
    there = [path for path in paths if os.path.exists(path)]
    current, entries = "", _Entries()
    for path in there:
        # From a string a YAML error would show a part of it, and that may be a key.
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file) or {}
        if not isinstance(content, dict):
            raise ValueError(f"{path} is no kubeconfig")
        current = current or _value(content, "current-context", str)
        entries = {**_in_file(path, content), **entries}
    if kubeconfig and not (current or entries):
        raise ValueError("it is empty" if there else "there is no such file")
    return current, entries


def _in_file(path: str, content: Object) -> _Entries:
    folder, found = os.path.dirname(os.path.abspath(path)), _Entries()
    for kind in ("cluster", "user", "context"):
        for item in _value(content, f"{kind}s", list):
            name, values = (item.get("name"), item.get(kind) or {}) if isinstance(item, dict) else (None, None)
            if not isinstance(name, str) or not isinstance(values, dict):
                raise ValueError(f"{path}: each of its {kind}s needs a name and a {kind}")
            if (kind, name) in found:
                raise ValueError(f"{path}: it has two {kind}s with the name {name}")
            found[kind, name] = _Entry(values, folder)
    return found


def _chosen(entries: _Entries, name: str) -> tuple[_Entry, _Entry]:
    """The cluster and the user of a context."""

    def get(kind: str, name: str) -> _Entry:
        if (kind, name) not in entries:
            raise ValueError(f"it has no {kind} {name}")
        return entries[kind, name]

    if not name:
        raise ValueError("it has no current-context")
    chosen = get("context", name)
    cluster, user = chosen.text("cluster"), chosen.text("user")
    # A context without a user is for an API that asks for none, as `kubectl proxy` gives one.
    return get("cluster", cluster), get("user", user) if user else _Entry({}, "")


def _pod() -> Access:
    """The way that the kubelet gives to each pod (client-go, rest/config.go: InClusterConfig)."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    cluster = {"server": url, "certificate-authority": "ca.crt"}
    return _access(_Entry(cluster, SERVICE_ACCOUNT), _Entry({"tokenFile": "token"}, SERVICE_ACCOUNT))


def _access(cluster: _Entry, user: _Entry) -> Access:
    chain, key = user.content("client-certificate"), user.content("client-key")
    if chain and not key:
        raise ValueError("its user has a client-certificate, and no client-key")
    certificate = chain + b"\n" + key if chain and key else b""
    server = _server(cluster, bool(certificate))
    return Access(server, _login(user, certificate, _exec_cluster(cluster, server)), _impersonation(user))


def _server(cluster: _Entry, has_certificate: bool) -> Server:
    url = cluster.text("server").partition("?")[0].rstrip("/")
    authority, skip = cluster.content("certificate-authority"), cluster.values.get("insecure-skip-tls-verify") or False
    if not isinstance(skip, bool):
        raise ValueError("insecure-skip-tls-verify must be true or false, without quotes")
    if skip and authority is not None:
        raise ValueError("it has both insecure-skip-tls-verify and a certificate-authority")
    if url and "://" not in url:
        # As client-go, rest/url_utils.go: DefaultServerUrlFor.
        url = f"{'https' if skip or authority or has_certificate else 'http'}://{url}"
    if not re.match("https?://", url):
        raise ValueError("the server of its cluster must be a URL with https:// or http://")
    text = cluster.text("proxy-url")
    proxy = parse_proxy(text, PROXY_URL) if text else environment_proxy(url.partition(":")[0], *address(url))
    return Server(url, cluster.text("tls-server-name"), authority, not skip, proxy)


def _login(user: _Entry, certificate: bytes, cluster: Object) -> Login:
    """The user's way to log in, with the precedence of client-go (tools/clientcmd/client_config.go)."""
    token, path = user.text("token"), user.path("tokenFile")
    name, password = user.text("username"), user.text("password")
    plugin, provider = _value(user.values, "exec", dict), _value(user.values, "auth-provider", dict)
    if (token or path) and (name or password):
        raise ValueError("its user has both a token and a password")
    if plugin and provider:
        raise ValueError("its user has both exec and auth-provider")
    if path:
        # The file goes before the token, which stands in until it can be read.
        return TokenFile(path, Credential(bearer(token or read_token(path)), certificate))
    if token:
        return Login(Credential(bearer(token), certificate))
    if name or password:
        return Login(Credential(f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}", certificate))
    if provider:
        return Provider(provider, Credential(certificate=certificate))
    if plugin and not certificate:
        return Plugin(plugin, user.folder, cluster)
    return Login(Credential(certificate=certificate))


def _exec_cluster(cluster: _Entry, server: Server) -> Object:
    """What a login plugin may hear of the cluster (client-go, rest/exec.go: ConfigToExecCluster)."""
    extensions = [item for item in _value(cluster.values, "extensions", list) if isinstance(item, dict)]
    config = [item.get("extension") for item in extensions if item.get("name") == "client.authentication.k8s.io/exec"]
    values = {
        "server": server.url,
        "tls-server-name": server.name,
        "insecure-skip-tls-verify": not server.is_verified,
        "certificate-authority-data": base64.b64encode(server.authority or b"").decode(),
        "proxy-url": cluster.text("proxy-url"),
        "config": next(iter(config), None),
    }
    return {key: value for key, value in values.items() if value}


def _impersonation(user: _Entry) -> list[tuple[str, str]]:
    """Headers that name the user to act as (client-go, transport/round_trippers.go)."""
    name, uid = user.text("as"), user.text("as-uid")
    groups, extra = _value(user.values, "as-groups", list), _value(user.values, "as-user-extra", dict)
    if not name and (uid or groups or extra):
        raise ValueError("its user has as-uid, as-groups or as-user-extra, and no as")
    headers = [
        ("Impersonate-User", name),
        ("Impersonate-Uid", uid),
        *(("Impersonate-Group", group) for group in groups),
    ]
    for key in extra:
        # What a header's name can't hold is percent-encoded (RFC 9110, section 5.6.2: token).
        header = "Impersonate-Extra-" + urllib.parse.quote(str(key), safe="!#$&'*+^`|")
        headers += [(header, value) for value in _value(extra, key, list)]
    for header, value in headers:
        if not isinstance(value, str):
            raise ValueError(f"what its user acts as must be text, also {value} ({header}): put it in quotes")
        header_value(value, header)
    return [(header, value) for header, value in headers if value]


_Value = t.TypeVar("_Value", str, list[t.Any], dict[str, t.Any])
_FORMS = {str: "be text: put it in quotes", list: "be a list", dict: "have keys and values"}


def _value(values: Object, key: str, kind: type[_Value]) -> _Value:
    """A value of its kind; an empty one where it is not there."""
    value = values.get(key)
    if value is None or (kind is not str and not value):
        return kind()
    if not isinstance(value, kind):
        raise ValueError(f"{key} must {_FORMS[kind]}")
    return value

"""A `docker` that keeps book and runs no containers: it leads the real kind further where there is no engine.

Only what the test asks of kind itself is proven with it (its arguments, its configuration, its words); that a cluster
then works is shown by the scenario `kind`, with a real engine. It answers in the words of Docker 28. A file
`docker.json` beside it holds containers and networks, and under `fails` what is to fail: a word of the command, and
what Docker writes then.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys

# kind calls `docker` some 70 times for a cluster: what takes long to import is not imported then.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

VALUED = {
    "--hostname",
    "--label",
    "--net",
    "--security-opt",
    "--tmpfs",
    "--volume",
    "-e",
    "--name",
    "--sysctl",
    "--device",
}
INFO = {
    "CgroupVersion": "2", "CgroupDriver": "systemd", "MemoryLimit": True, "PidsLimit": True, "CPUShares": True,
    "SecurityOptions": ["name=seccomp,profile=builtin"],
}  # fmt: skip
ADMIN_CONF = """apiVersion: v1
kind: Config
clusters:
- {name: kubernetes, cluster: {server: "https://node:6443", certificate-authority-data: Y2E=}}
contexts:
- {name: kubernetes-admin@kubernetes, context: {cluster: kubernetes, user: kubernetes-admin}}
current-context: kubernetes-admin@kubernetes
users:
- {name: kubernetes-admin, user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}}
"""
READY = "'True'"
DOWN = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


class Failure(Exception):
    """What Docker writes when a command fails."""


def install(folder: Path) -> Path:
    """Put a `docker` into a folder for PATH; returns the file with its state."""
    program = folder / "docker"
    with open(__file__, encoding="utf-8") as file:
        program.write_text(f"#!{sys.executable} -IS\n{file.read()}", encoding="utf-8")
    program.chmod(0o755)
    state = folder / "docker.json"
    holds = {"containers": {}, "networks": ["bridge", "host", "none"], "images": [], "fails": {}, "calls": []}
    state.write_text(json.dumps(holds), encoding="utf-8")
    return state


def main(arguments: list[str]) -> None:
    # kind runs several commands at once, and each changes the state.
    with open(os.path.join(os.path.dirname(__file__), "docker.json"), "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        state = json.load(file)
        state["calls"].append(arguments)
        try:
            for words, text in state["fails"].items():
                if words in " ".join(arguments):
                    raise Failure(text)
            answer: str | None = COMMANDS.get(arguments[0], _silent)(state, arguments[1:])
        except Failure as failure:
            answer = None
            print(failure, file=sys.stderr)
        file.seek(0)
        file.truncate()
        json.dump(state, file)
    if answer is None:
        sys.exit(125 if arguments[0] == "run" else 1)
    print(answer, end="\n" if answer and not answer.endswith("\n") else "")


def _silent(*_: object) -> str:
    return ""


def _info(_: Any, arguments: list[str]) -> str:
    what = arguments[-1] if arguments else ""
    return {"{{json .}}": json.dumps(INFO), "{{.Driver}}": "overlay2"}.get(what, "[]")


def _ps(state: Any, arguments: list[str]) -> str:
    what, *words = arguments[arguments.index("--filter") + 1].split("=")
    found = state["containers"].items()
    if what == "network":
        return "\n".join(name for name, item in found if [item["HostConfig"]["NetworkMode"]] == words)
    key, value = words
    return "\n".join(name for name, item in found if item["Config"]["Labels"].get(key) == value)


def _run(state: Any, arguments: list[str]) -> str:
    options: dict[str, list[str]] = {}
    rest = list(arguments)
    while rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        options.setdefault(option, []).append(rest.pop(0) if option in VALUED and not equals else value)
    bindings: dict[str, list[dict[str, str]]] = {}
    for published in options.get("--publish", []):
        host, _, container = published.rpartition(":")
        address, _, port = host.rpartition(":")
        bindings.setdefault(container.lower(), []).append({"HostIp": address.strip("[]"), "HostPort": port})
    (name,) = options["--name"]
    state["containers"][name] = {
        "Name": f"/{name}",
        "Config": {"Image": rest[0], "Labels": dict(label.split("=", 1) for label in options["--label"])},
        "HostConfig": {"PortBindings": bindings, "NetworkMode": options["--net"][0]},
        "State": {"Status": "running"},
    }
    return "0" * 64


def _inspect(state: Any, arguments: list[str]) -> str:
    if "--type=image" in arguments:
        if arguments[-1] not in state["images"]:
            raise Failure(f"Error response from daemon: No such image: {arguments[-1]}")
        return "[]"
    if arguments[0] not in {"--format", "-f"}:
        return json.dumps([_container(state, name) for name in arguments])
    item = _container(state, arguments[-1])
    if "desktop.docker.io" in arguments[1]:
        return "\n"
    if "Config.Labels" in arguments[1]:
        return str(item["Config"]["Labels"]["io.x-k8s.kind.role"])
    if "NetworkSettings.Ports" in arguments[1]:
        (to,) = item["HostConfig"]["PortBindings"]["6443/tcp"]
        return f"{to['HostIp']}\t{to['HostPort']}"
    return "172.18.0.2,"


def _container(state: Any, name: str) -> Any:
    if name not in state["containers"]:
        raise Failure(f"Error response from daemon: No such container: {name}")
    return state["containers"][name]


def _exec(state: Any, arguments: list[str]) -> str:
    while arguments[0].startswith("-"):
        arguments = arguments[2 if arguments[0] == "-e" else 1 :]
    node, *command = arguments
    item = _container(state, node)
    if item["State"]["Status"] != "running":
        raise Failure(f"Error response from daemon: container {node} is not running")
    line = " ".join(command)
    if "images import" in line:
        sys.stdin.buffer.read()
        item.setdefault("images", []).extend(state["archive"])
    elif "jsonpath" in line:
        return READY
    elif command[0] == "cp" or "-f -" in line:
        sys.stdin.buffer.read()
    return {
        "cat /kind/version": "v1.36.4",
        "cat /etc/kubernetes/admin.conf": ADMIN_CONF,
        "containerd config dump": 'version = 3\n[plugins."io.containerd.cri.v1.images"]\nsnapshotter = "overlayfs"\n',
        "crictl images --output json": json.dumps({"images": item.get("images", [])}),
    }.get(line, "")


def _rm(state: Any, arguments: list[str]) -> str:
    for name in [argument for argument in arguments if not argument.startswith("-")]:
        del state["containers"][name]
    return ""


def _start(state: Any, arguments: list[str]) -> str:
    for name in arguments:
        _container(state, name)["State"]["Status"] = "running"
    return "\n".join(arguments)


def _network(state: Any, arguments: list[str]) -> str:
    """Names are IDs, too; kind's filter is a name between ^ and $."""
    command, name, networks = arguments[0], arguments[-1], state["networks"]
    if command == "create":
        networks.append(name)
    elif command == "rm":
        if _ps(state, ["--filter", f"network={name}"]):
            raise Failure(
                f"Error response from daemon: error while removing network: network {name} has active endpoints"
            )
        networks.remove(name)
    elif command == "ls":
        wanted = [word.partition("=^")[2].rstrip("$") for word in arguments if word.startswith("--filter=name=")]
        return "\n".join(network for network in networks if network in (wanted or networks))
    return ""


COMMANDS = {
    "-v": lambda *_: "Docker version 28.2.2, build e6534b4",
    "info": _info,
    "ps": _ps,
    "run": _run,
    "inspect": _inspect,
    "container": lambda state, arguments: _inspect(state, arguments[1:]),
    "exec": _exec,
    "rm": _rm,
    "start": _start,
    "network": _network,
    "logs": lambda *_: "Reached target Multi-User System.",
}

if __name__ == "__main__":
    main(sys.argv[1:])

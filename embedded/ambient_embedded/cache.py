"""The content-addressed cache: parts that are built once for the same ingredients, in several lanes at a time.

A part lives in ``<cache>/<name>-<key>``; the key is a hash over its recipe, its ingredients and the keys of the
parts it stands on. It is built beside its place and renamed into it when complete, so a part that is there is
whole, an interrupted build goes on with the next one, and an unchanged part is never built again.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import inspect
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from .errors import LabError
from .tools import remove, stopped, write_atomically

Progress = Callable[[str], None]
Report = Callable[[str], None]
# Says that a folder is a cache, and ours (Cache Directory Tagging Specification): backups may leave it out.
TAG = "CACHEDIR.TAG"
TAG_TEXT = "Signature: 8a477f597d28d172789f06886806bc55\n# This folder is the ambient lab's: make clean-images.\n"
LOCK, WORK = ".lock", "work"
# What builds have in their folder of downloads; one of this name may be somebody else's.
DOWNLOADS = {"go-build", "go-config", "go-mod", "go-tmp", "kept", "kind-module", "npm"}
# What earlier versions and the scenario kind build, too; every part that has a seal counts besides.
PART = re.compile(
    "(console|envoy|go-[a-z-]+|image-store|images|kind(-[a-z]+)?|node-(image|toolchain)|programs|protobuf-compiler"
    "|sources|(waypoint|ztunnel)(-libraries)?)-[0-9a-f]{12}"
)
BESIDE_PART = re.compile(r"\..+-[0-9a-f]{12}\.(draft|(sha256|stamp)(\.draft)?)")
KEPT_VERSIONS = 1  # besides the newest: going back and forth between two checkouts costs no build


@dataclass(frozen=True)
class Part:
    """One thing to build.

    :param make: ``make(target folder, report)``; ``report`` says in a few words how far it is.
    :param ingredients: whatever decides the result besides the recipe: versions, file contents.
    :param needs: parts whose folders ``make`` reads.
    :param lane: parts of one lane run one after the other.
    """

    name: str
    title: str
    make: Callable[[Path, Report], None]
    ingredients: Sequence[str] = ()
    needs: Sequence[Part] = ()
    lane: str = "packages"

    @property
    def key(self) -> str:
        digest = hashlib.sha256(inspect.getsource(self.make).encode())
        for ingredient in (os.uname().machine, *self.ingredients, *(part.key for part in self.needs)):
            digest.update(b"\0" + ingredient.encode())
        return digest.hexdigest()[:12]

    def folder(self, cache: Path) -> Path:
        return cache / f"{self.name}-{self.key}"


@contextlib.contextmanager
def locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Only one run at a time works in a folder (the cache, or that of the labs); a second one says so and waits."""
    file = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                progress(f"another run works in {folder}: waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Else the folder was removed meanwhile, and its lock with it.
            if file.exists() and os.path.samestat(file.stat(), os.fstat(lock.fileno())):
                yield
                return


@dataclass
class _Ticker:
    """Says every few seconds how far the parts under way are."""

    progress: Progress
    seconds: float = 15.0
    states: dict[str, tuple[float, str]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> _Ticker:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.seconds):
            for label, (started, words) in sorted(self.states.items()):
                self.progress(f"{label} ... {time.monotonic() - started:.0f} s{', ' + words if words else ''}")


def build(cache: Path, parts: Sequence[Part], progress: Progress) -> list[Part]:
    """Build what is missing of the parts. Returns those that were built.

    Raises whatever a recipe raises, at once: the programs of the other lanes are ended.
    """
    missing = [part for part in parts if not part.folder(cache).is_dir()]
    if not missing:
        return []
    progress(f"{len(parts) - len(missing)} of {len(parts)} parts are in {cache}, {len(missing)} to build")
    waiting, built = list(missing), list[Part]()
    lanes = {lane: ThreadPoolExecutor(1) for lane in sorted({part.lane for part in missing})}
    running: dict[Future[None], Part] = {}
    with _Ticker(progress) as ticker:

        def run(part: Part) -> None:
            label = f"[{parts.index(part) + 1:2}/{len(parts)}] {part.title}"
            started = time.monotonic()
            ticker.states[label] = (started, "")
            try:
                _make(cache, part, lambda words: ticker.states.update({label: (started, words)}))
                progress(f"{label}: built in {time.monotonic() - started:.0f} s")
            finally:
                del ticker.states[label]

        def shut_down() -> None:
            for lane in lanes.values():
                lane.shutdown(wait=True, cancel_futures=True)

        try:
            while waiting or running:
                for part in [
                    part for part in waiting if not any(need in missing and need not in built for need in part.needs)
                ]:
                    waiting.remove(part)
                    running[lanes[part.lane].submit(run, part)] = part
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                # Of several that have failed meanwhile the first one is named.
                for future in [future for future in running if future in done]:
                    built.append(running.pop(future))
                    future.result()
        except BaseException:
            with stopped():
                shut_down()
            raise
        shut_down()
    return built


def _make(cache: Path, part: Part, report: Report) -> None:
    target = part.folder(cache)
    draft = cache / f".{target.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        part.make(draft, report)
        write_atomically(seal_of(target), _described(draft, _contents).encode())
        draft.rename(target)
    except LabError:
        raise
    except (OSError, ValueError) as error:
        raise LabError(f"{part.title} could not be built: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def seal_of(folder: Path, kind: str = "sha256") -> Path:
    """A file beside a part: what was built (``sha256``), or how it lay on the disk when last read (``stamp``)."""
    return folder.with_name(f".{folder.name}.{kind}")


def _described(folder: Path, describe: Callable[[list[str]], Iterable[str]]) -> str:
    """A line for all that is in a folder: what ``describe`` says of it, and its name."""
    names = sorted(os.path.join(top, name) for top, folders, files in os.walk(folder) for name in (*folders, *files))
    return "".join(
        f"{line} {name[len(str(folder)) + 1 :]!a}\n" for line, name in zip(describe(names), names, strict=True)
    )


def _contents(names: list[str]) -> list[str]:
    with ThreadPoolExecutor() as pool:  # hashing leaves the processor to other threads
        return list(pool.map(_content, names))


def _content(name: str) -> str:
    mode = os.lstat(name).st_mode
    if stat.S_ISLNK(mode):
        return f"{mode:o} {os.readlink(name)!a}".replace(" ", "_")
    if not stat.S_ISREG(mode):
        return f"{mode:o}"
    with open(name, "rb") as file:
        return f"{mode:o}_{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _stamps(names: list[str]) -> list[str]:
    found = map(os.lstat, names)
    return [f"{one.st_ino}_{one.st_size}_{one.st_mtime_ns}_{one.st_ctime_ns}" for one in found]


def verify(cache: Path, parts: Sequence[Part], progress: Progress, *, thoroughly: bool) -> None:
    """Raise :class:`LabError` where a part is not what was built, with the command that has it built again.

    A part without a seal (an older version built it) gets one: from then on it is what was there.

    :param thoroughly: read all of it; else only what has been touched since it was last read.
    """
    damaged = set[Path]()
    for folder in (part.folder(cache) for part in parts):
        seal, stamp, now = seal_of(folder), seal_of(folder, "stamp"), _described(folder, _stamps)
        if not thoroughly and stamp.exists() and stamp.read_text() == now:
            continue
        found = _described(folder, _contents)
        if not seal.exists():
            progress(f"{folder} was built by an older version: its digests are kept from now on")
            write_atomically(seal, found.encode())
        lines = set(found.splitlines()) ^ set(seal.read_text().splitlines())
        for file in (folder / str(ast.literal_eval(line.partition(" ")[2])) for line in lines):
            damaged |= {folder, *(holders(cache, file) if file.is_file() and not file.is_symlink() else ())}
        if not lines:
            write_atomically(stamp, now.encode())
    if damaged:
        listed = " ".join(sorted(map(str, damaged)))
        raise LabError(f"What is in the cache is not what was built. Run again after: rm -r {listed}")


def discard(folder: Path) -> None:
    """Remove a part; interrupted half-way, what is left no longer counts as whole."""
    draft = folder.with_name(f".{folder.name}.draft")
    remove(draft)
    folder.rename(draft)
    for kind in ("sha256", "stamp"):
        seal_of(folder, kind).unlink(missing_ok=True)
    remove(draft)


def versions(cache: Path, name: str = "*") -> list[Path]:
    """The folders of a part's versions that are in the cache, the oldest first; of every part without a name."""
    return sorted(cache.glob(f"{name}-" + "[0-9a-f]" * 12), key=lambda path: path.stat().st_mtime)


def holders(cache: Path, file: Path) -> list[Path]:
    """The parts that hold a file, under whatever names: parts share what they have in common by hard links."""
    inode = file.stat().st_ino
    return [part for part in versions(cache) if any(entry.lstat().st_ino == inode for entry in part.rglob("*"))]


def drop_work(work: Path, keep: bool | None = None) -> None:
    """Remove downloads and compiler files after a build, or keep them for the next one.

    :param keep: None leaves it at what an earlier build was told.
    """
    mark = work / "kept"
    if keep and work.is_dir():
        mark.touch()
    elif keep is False or not mark.exists():
        for name in DOWNLOADS:
            remove(work / name)
        with contextlib.suppress(OSError):  # it is not there, or something of the user's own is in it
            work.rmdir()


def _is_tagged(cache: Path) -> bool:
    tag = cache / TAG
    return tag.is_file() and tag.read_bytes() == TAG_TEXT.encode()


def _made(cache: Path) -> list[Path]:
    """What builds have left in a folder, the parts first: an interrupted removal leaves nothing that is not known."""
    entries = sorted(cache.iterdir(), key=lambda entry: entry.name.startswith(".")) if cache.is_dir() else []
    return [entry for entry in entries if _is_part(entry) or BESIDE_PART.fullmatch(entry.name)]


def _is_part(folder: Path) -> bool:
    return bool(PART.fullmatch(folder.name)) or seal_of(folder).exists()


def refuse_foreign(cache: Path) -> None:
    """Raise :class:`LabError` where a folder has no tag of ours, and holds something else than earlier builds did."""
    if not cache.is_dir() or _is_tagged(cache):
        return
    # In a mounted disk's lost+found nobody keeps anything.
    known = {LOCK, f".{TAG}.draft", "lost+found", *(entry.name for entry in _made(cache))}
    work = cache / WORK
    if (cache / LOCK).exists() and work.is_dir() and {entry.name for entry in work.iterdir()} <= DOWNLOADS:
        known.add(WORK)
    if foreign := sorted({entry.name for entry in cache.iterdir()} - known):
        raise LabError(
            f"{cache} is not the ambient lab's cache, {foreign[0]} is in it: set <cache_dir> to a folder of its "
            f"own, {cache / 'ambient-lab'} for example"
        )


def claim(cache: Path) -> None:
    """Tag a folder as ours before anything is put into it, or removed from it."""
    refuse_foreign(cache)
    if not _is_tagged(cache):
        write_atomically(cache / TAG, TAG_TEXT.encode())


def is_empty(cache: Path) -> bool:
    """Whether there is nothing for :func:`empty` to remove."""
    return not _made(cache) and not any((cache / WORK / name).exists() for name in DOWNLOADS)


def empty(cache: Path) -> None:
    """Remove parts, drafts, downloads and the lock; the folder too when nothing else is in it."""
    claim(cache)
    for entry in _made(cache):
        (discard if _is_part(entry) else remove)(entry)
    drop_work(cache / WORK, keep=False)
    (cache / LOCK).unlink()
    if [entry.name for entry in cache.iterdir()] == [TAG]:  # else something of the user's own is in it
        (cache / TAG).unlink()
        with contextlib.suppress(OSError):  # a disk is mounted here
            cache.rmdir()


def prune(cache: Path, parts: Sequence[Part], used: Iterable[Path]) -> None:
    """Drop what newer versions of the parts have replaced, but for the version before and what labs run on.

    :param used: files and folders that are still needed, without links in their paths.
    """
    for draft in [entry for entry in _made(cache) if entry.suffix == ".draft"]:
        remove(draft)
    for part in parts:
        for folder in versions(cache, part.name)[: -1 - KEPT_VERSIONS]:
            if folder != part.folder(cache) and not any(path.is_relative_to(folder.resolve()) for path in used):
                discard(folder)

"""The cache of parts: built once, never half, one build at a time."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import project
import pytest
from ambient_embedded import cache
from ambient_embedded.cache import Part, Report, build, verify
from ambient_embedded.errors import LabError
from ambient_embedded.tools import STOPPED, run

PATIENCE_SECONDS = 30.0
FORK = multiprocessing.get_context("fork")


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def write(target: Path, report: Report) -> None:
    report("writing")
    (target / "content").write_text("whole")


def write_otherwise(target: Path, report: Report) -> None:
    (target / "content").write_text("whole, by another recipe")


def part(name: str, make: Callable[[Path, Report], None] = write, **rest: Sequence[Part] | Sequence[str] | str) -> Part:
    return Part(name, f"Part {name}", make, **rest)  # type: ignore[arg-type]


def received(words: Connection) -> str:
    """What another process says next; fails when it stays silent."""
    assert words.poll(PATIENCE_SECONDS)
    return str(words.recv())


def whole(folder: Path) -> list[str]:
    """What counts as built in a cache."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_part_is_built_once(tmp_path: Path) -> None:
    one = part("one")
    assert cache.build(tmp_path, [one], quiet) == [one]
    assert (one.folder(tmp_path) / "content").read_text() == "whole"
    assert cache.build(tmp_path, [one], quiet) == []


def test_parts_that_are_there_are_not_mentioned(tmp_path: Path) -> None:
    cache.build(tmp_path, [part("one")], quiet)
    said: list[str] = []
    cache.build(tmp_path, [part("one"), part("two")], said.append)
    assert said[0] == f"1 of 2 parts are in {tmp_path}, 1 to build"
    assert [line for line in said if "Part one" in line] == []


@pytest.mark.parametrize(
    "other",
    [
        part("one", ingredients=["version 2"]),
        part("one", ingredients=["version 1", ""]),
        part("one", write_otherwise, ingredients=["version 1"]),
        part("one", ingredients=["version 1"], needs=[part("base")]),
    ],
    ids=["ingredient", "one more ingredient", "recipe", "need"],
)
def test_the_key_changes_with_what_decides_the_result(other: Part) -> None:
    assert other.key != part("one", ingredients=["version 1"]).key


def test_the_key_changes_with_what_a_need_is_made_of() -> None:
    keys = [part("one", needs=[part("base", ingredients=[text])]).key for text in ("1", "2", "1")]
    assert keys[0] == keys[2] != keys[1]


def test_a_part_is_built_after_its_needs_across_lanes(tmp_path: Path) -> None:
    order: list[str] = []

    def note(target: Path, report: Report) -> None:
        order.append(target.name.split("-")[0].lstrip("."))

    base = part("base", note, lane="go")
    middle = part("middle", note, needs=[base])
    top = part("top", note, needs=[middle], lane="go")
    assert cache.build(tmp_path, [top, middle, base], quiet) == [base, middle, top]
    assert order == ["base", "middle", "top"]


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("no JSON")])
def test_a_failing_part_gives_one_error_that_names_it(tmp_path: Path, error: Exception) -> None:
    def fail(target: Path, report: Report) -> None:
        (target / "content").write_text("half")
        raise error

    with pytest.raises(LabError, match=rf"Part one could not be built: {error}"):
        cache.build(tmp_path, [part("one", fail), part("two", fail)], quiet)
    assert list(tmp_path.iterdir()) == []


def test_what_a_failing_part_does_not_concern_is_kept(tmp_path: Path) -> None:
    def fail(target: Path, report: Report) -> None:
        raise LabError("the mirror is down")

    good, bad, above = part("good", lane="go"), part("bad", fail), part("above")
    with pytest.raises(LabError, match=r"^the mirror is down$"):
        cache.build(tmp_path, [good, bad, part("above", needs=[bad])], quiet)
    assert whole(tmp_path) == [good.folder(tmp_path).name]
    assert cache.build(tmp_path, [good, above], quiet) == [above]


def test_a_part_that_fails_ends_what_the_other_lane_runs(tmp_path: Path) -> None:
    """Also a program that the other lane was just about to start; the next build may start programs again."""
    under_way, ended = threading.Event(), list[str]()

    def compile_for_long(target: Path, report: Report) -> None:
        under_way.set()
        try:
            run(["sleep", "60"])
        except LabError as error:
            ended.append(str(error))
            raise

    def fail(target: Path, report: Report) -> None:
        under_way.wait(PATIENCE_SECONDS)
        raise LabError("the mirror is down")

    with pytest.raises(LabError, match=r"^the mirror is down$"):
        cache.build(tmp_path, [part("long", compile_for_long, lane="go"), part("bad", fail)], quiet)
    assert [words in ("sleep 60 ... failed with status -15:", f"sleep {STOPPED}") for words in ended] == [True]
    assert run(["echo", "again"]) == "again\n"


def test_a_killed_build_leaves_nothing_whole_and_goes_on(tmp_path: Path) -> None:
    first = part("first")

    def die(target: Path, report: Report) -> None:
        (target / "content").write_text("half")
        if os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        write(target, report)

    parent = os.getpid()
    second = part("second", die, needs=[first])
    builder = FORK.Process(target=cache.build, args=(tmp_path, [first, second], quiet))
    builder.start()
    builder.join()
    assert builder.exitcode == -signal.SIGKILL
    assert whole(tmp_path) == [first.folder(tmp_path).name]
    assert cache.build(tmp_path, [first, second], quiet) == [second]
    assert (second.folder(tmp_path) / "content").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".draft")] == []


def test_two_builds_at_once_build_once_and_the_second_says_that_it_waits(tmp_path: Path) -> None:
    under_way, release = FORK.Event(), FORK.Event()
    words, said = FORK.Pipe(duplex=False)

    def slowly(target: Path, report: Report) -> None:
        under_way.set()
        release.wait()
        with (tmp_path / "built").open("a") as file:
            file.write("once\n")

    slow = part("slow", slowly)

    def run(say: Connection) -> None:
        with cache.locked(tmp_path, say.send):
            say.send(f"built {len(cache.build(tmp_path, [slow], quiet))}")

    first_words, first_said = FORK.Pipe(duplex=False)
    first = FORK.Process(target=run, args=(first_said,))
    second = FORK.Process(target=run, args=(said,))
    first.start()
    assert under_way.wait(PATIENCE_SECONDS)
    second.start()
    assert received(words) == f"another run works in {tmp_path}: waiting for it"
    release.set()
    assert [received(words), received(first_words)] == ["built 0", "built 1"]
    for process in (first, second):
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "built").read_text() == "once\n"


def test_the_lock_holds_when_the_cache_was_emptied_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    words, said = FORK.Pipe(duplex=False)
    begin, release = FORK.Event(), FORK.Event()

    def wait(say: Connection) -> None:
        begin.wait()
        with cache.locked(folder, say.send):
            say.send("mine")
            release.wait()

    second = FORK.Process(target=wait, args=(said,))
    second.start()  # before the lock is taken here: a child shares the locks of its parent
    with cache.locked(folder, quiet):
        begin.set()
        assert "waiting" in received(words)
        shutil.rmtree(folder)
    assert received(words) == "mine"
    try:
        with (folder / ".lock").open("w") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        release.set()
        second.join()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HOME": "/u/me"}, f"{pwd.getpwuid(0).pw_dir}/.cache/ambient-lab"),
        ({"HOME": "/u/me", "XDG_CACHE_HOME": "/var/cache"}, "/var/cache/ambient-lab"),
        ({"XDG_CACHE_HOME": "/var/cache", "AMBIENT_LAB_CACHE": "/srv/built"}, "/srv/built"),
    ],
)
def test_the_tests_look_where_the_build_puts_it(environment: dict[str, str], folder: str) -> None:
    """Else they would find nothing, and skip."""
    tests = str(Path(project.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", "import project; print(project.CACHE)"],
        env={**environment, "PYTHONPATH": tests}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == folder


def versions(folder: Path, count: int) -> list[Part]:
    """Build so many versions of one part, each newer than the one before."""
    made = [part("one", ingredients=[str(number)]) for number in range(count)]
    for age, version in enumerate(made):
        cache.build(folder, [version], quiet)
        os.utime(version.folder(folder), (age, age))
    return made


def test_prune_keeps_this_version_the_one_before_and_what_labs_use(tmp_path: Path) -> None:
    made = versions(tmp_path, 5)
    other = part("one-more")
    cache.build(tmp_path, [other], quiet)
    cache.prune(tmp_path, [made[-1]], [made[1].folder(tmp_path) / "tree"])
    kept = [made[1], made[3], made[4], other]
    assert whole(tmp_path) == sorted(version.folder(tmp_path).name for version in kept)


def test_prune_keeps_the_current_version_however_old(tmp_path: Path) -> None:
    made = versions(tmp_path, 4)
    cache.prune(tmp_path, [made[0]], [])
    assert whole(tmp_path) == sorted(made[number].folder(tmp_path).name for number in (0, 2, 3))


def test_an_interrupted_prune_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = versions(tmp_path, 3)

    def interrupted(path: Path, ignore_errors: bool = False) -> None:
        if path.exists():
            (path / "content").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cache.prune(tmp_path, [made[-1]], [])
    assert whole(tmp_path) == sorted(version.folder(tmp_path).name for version in made[1:])
    assert cache.build(tmp_path, [made[0]], quiet) == [made[0]]


def test_prune_drops_what_killed_builds_of_older_versions_left(tmp_path: Path) -> None:
    one = part("one")
    draft = tmp_path / f".one-{'0' * 12}.draft"
    draft.mkdir()
    cache.build(tmp_path, [one], quiet)
    cache.prune(tmp_path, [one], [])
    assert not draft.exists()


def test_the_parts_that_share_a_file_are_all_found(tmp_path: Path) -> None:
    one, two, other = (tmp_path / f"{name}-0123456789ab" for name in ("one", "two", "other"))
    for folder in (one, two, other):
        folder.mkdir()
        (folder / "own").write_text("same text, another file")
    (one / "own").unlink()
    (two / "deep").mkdir()
    (one / "shared").write_text("bytes")
    os.link(one / "shared", two / "deep/under-another-name")
    assert sorted(cache.holders(tmp_path, one / "shared")) == [one, two]


@pytest.mark.parametrize("keeps", [False, True])
def test_build_files_are_dropped_unless_somebody_keeps_them(tmp_path: Path, keeps: bool) -> None:
    """The scenario kind's builds do as the embedded cluster's were told."""
    (tmp_path / "work").mkdir()
    for keep in (keeps or None, None):
        cache.drop_work(tmp_path / "work", keep)
        assert (tmp_path / "work").exists() is keeps
    cache.drop_work(tmp_path / "work", keep=False)
    assert not (tmp_path / "work").exists()


def damage(file: Path, how: str) -> None:
    """Change a file of a part; a flipped bit leaves the time as it was."""
    times = file.stat()
    if how == "gone":
        file.unlink()
    elif how == "mode":
        file.chmod(0o777)
    elif how == "more":
        file.with_name("more").touch()
    elif how == "link":
        file.unlink()
        file.symlink_to("/bin/sh")
    else:
        file.write_text("contenT")
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("thoroughly", [True, False])
@pytest.mark.parametrize("how", ["gone", "mode", "more", "link", "content"])
def test_what_is_not_what_was_built_is_refused_with_all_that_holds_it(
    tmp_path: Path, how: str, thoroughly: bool
) -> None:
    def make(target: Path, report: Report) -> None:
        (target / "bin").mkdir()
        (target / "bin/kubectl").write_text("content")
        (target / "bin/a link").symlink_to("kubectl")

    def gather(target: Path, report: Report) -> None:
        os.link(one.folder(tmp_path) / "bin/kubectl", target / "kubectl")

    one = Part("one", "one", make)
    programs = Part("programs", "programs", gather, needs=[one])
    said: list[str] = []
    build(tmp_path, [one, programs], lambda _: None)
    for _ in range(2):
        verify(tmp_path, [programs], said.append, thoroughly=thoroughly)
    assert said == []
    damage(programs.folder(tmp_path) / "kubectl", how)
    with pytest.raises(LabError, match=r"not what was built\. Run again after: rm -r ") as error:
        verify(tmp_path, [programs], said.append, thoroughly=thoroughly)
    named = str(error.value).partition("rm -r ")[2].split()
    shared = {str(one.folder(tmp_path))} if how in ("mode", "content") else set()
    assert set(named) == {str(programs.folder(tmp_path)), *shared}
    for folder in named:
        shutil.rmtree(folder)
    build(tmp_path, [one, programs], lambda _: None)
    verify(tmp_path, [programs], said.append, thoroughly=thoroughly)


def test_what_has_not_been_touched_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(target: Path, report: Report) -> None:
        (target / "file").write_text("content")

    one = Part("one", "one", make)
    build(tmp_path, [one], lambda _: None)
    read: list[str] = []
    content = cache._content

    def noted(name: str) -> str:
        read.append(name)
        return content(name)

    monkeypatch.setattr(cache, "_content", noted)
    for thoroughly in (False, False, True):
        verify(tmp_path, [one], read.append, thoroughly=thoroughly)
    assert len(read) == 2


def test_a_part_of_an_older_version_is_sealed_as_it_is_and_leaves_no_seal(tmp_path: Path) -> None:
    def make(target: Path, report: Report) -> None:
        (target / "file").write_text("content")

    one = Part("one", "one", make)
    build(tmp_path, [one], lambda _: None)
    (tmp_path / f".{one.folder(tmp_path).name}.sha256").unlink()
    said: list[str] = []
    for _ in range(2):
        verify(tmp_path, [one], said.append, thoroughly=True)
    assert [line.partition(" was built by ")[2] for line in said] == [
        "an older version: its digests are kept from now on"
    ]
    (tmp_path / ".lock").touch()
    shutil.rmtree(one.folder(tmp_path))
    cache.empty(tmp_path)
    assert not tmp_path.exists()

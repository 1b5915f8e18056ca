# Changes one object of the user's on a cluster, and puts it back whatever happens meanwhile.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import typing as t

from .._cluster.channel import Answer, status_message
from .._cluster.kept import Kept, as_new, differs
from .._cluster.kube import missing_right
from .._common.errors import LabError
from .._common.rounds import Reason, Retry, Time, Wait, repeat
from .._mesh.mesh import NAMESPACE_PATH, PATHS, Object, namespace_of
from .mutants import Mutant

_MERGE = "application/merge-patch+json"
# Set and removed again, so that an object gets another resourceVersion.
_TOUCHED = "ambient-lab/touched"
# Of each write: only what is read says that the object is as it was.
_UNREAD = "it can't be read whether it is as it was"
_INTERVAL = 0.1
# Seconds in which an API that does not answer is asked again to change an object, and to take it back.
_CHANGE_SECONDS, _BACK_SECONDS = 30.0, 600.0


class Writer(Time, t.Protocol):
    """Reads and writes single objects."""

    def get(self, path: str, **query: str) -> Object | None:
        """One object, None where there is none."""

    def send(
        self, method: str, path: str, body: Object | None = None, content_type: str = "application/json", **query: str
    ) -> Answer:
        """POST, PATCH or DELETE one path, and take any answer."""


class Swap:
    """A mutant on a cluster, for a while.

    Args:
        writer: of the cluster.
        mutant: what is changed.
        kept: where the object is written down meanwhile.
    """

    def __init__(self, writer: Writer, mutant: Mutant, kept: Kept) -> None:
        self._writer, self._mutant, self._kept = writer, mutant, kept
        self._path = path_of(mutant.old)
        self._parent = self._path.rpartition("/")[0]
        old, new = _fields(mutant.old), mutant.new and _fields(mutant.new)
        # As merge patches (RFC 7396), which leave alone what others write on the object.
        self._forth = None if new is None else _patch(old, new)
        self._back = old if new is None else _patch(new, old)
        self._before: Object | None = None
        # As the API has it, which may add defaults.
        self._made = mutant.new
        # A change of the object whose answer never came may still be made.
        self._late = False
        # The object: by this, and by somebody else.
        self._deleted = self._gone = False

    @contextlib.contextmanager
    def applied(self) -> t.Iterator[str]:
        """Change the object until the block ends; gives why the API refuses the change, "" where it took it.

        Raises:
            LabError: when the object is not as it was read, can't be kept, or can't be put back; says how to do that.
        """
        try:
            yield self._repeated(self._change, _CHANGE_SECONDS)
        finally:
            try:
                self._put_back()
            except LabError:
                raise
            except BaseException:
                # A signal came while it was put back. By now all others are ignored (_common/signals.py).
                self._put_back()
                raise

    def undone(self) -> str:
        """Why the change is not there any more, "" where it is."""
        there = self._writer.get(self._path)
        if self._forth is None:
            stands = there is None
        else:
            stands = bool(there and self._made and _is(there, self._made, self._forth))
        return "" if stands else "somebody put it back, or changed it, meanwhile: nothing was measured"

    def _change(self) -> tuple[str, Retry]:
        before = self._writer.get(self._path)
        if before is None or not _is(before, self._mutant.old, self._back) or "deletionTimestamp" in before["metadata"]:
            raise LabError(f"{self._mutant.item} is not as it was read: somebody changes it. Run again")
        if self._forth is None and before["metadata"].get("finalizers"):
            return "it has finalizers, so it would not be gone at once", Retry.POINTLESS
        if why := self._no_way_back(before):
            return why
        self._kept.keep(before)
        self._before = before
        if self._forth is None:
            meta = before["metadata"]
            only = {"uid": meta.get("uid"), "resourceVersion": meta.get("resourceVersion")}
            options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": only}
            answer = self._sent("DELETE", options)
            self._deleted = answer.status < 300 or answer.status == 404
            return ("", Retry.USEFUL) if self._deleted else _refused(answer)
        answer = self._patched(before, self._forth)
        self._made = answer.json() if answer.status == 200 else self._made
        return _refused(answer)

    def _no_way_back(self, before: Object) -> tuple[str, Retry] | None:
        """Try the way back on the object as it is, and write nothing; why the API would refuse it.

        Rights, admission and validation come first, that the name is taken last (kubernetes/kubernetes,
        apiserver/pkg/registry/generic/registry/store.go and dryrun.go).
        """
        if self._forth is None:
            answer = self._writer.send("POST", self._parent, as_new(before), dryRun="All")
            if answer.status == 409 and (answer.json() or {}).get("reason") == "AlreadyExists":
                return None
        else:
            answer = self._writer.send("PATCH", self._path, self._back, _MERGE, dryRun="All")
            if answer.status == 200:
                return None
        why, retry = _refused(answer)
        return f"it could not be put back: {why or f'the API answers HTTP {answer.status} to a dry run'}", retry

    def _put_back(self) -> None:
        if self._before is None:
            return
        why = self._repeated(self._restore, _BACK_SECONDS)
        if why:
            lost = f"{self._mutant.item} was not put back: {why}"
            raise LabError(f"{lost}\n{self._kept.way_back}", changed=True)
        self._before = None
        self._kept.drop()
        if self._gone:
            raise LabError(f"{self._mutant.item} was deleted meanwhile by somebody else: it is not made again")

    def _restore(self) -> tuple[str, Retry]:
        assert self._before
        try:
            there = self._writer.get(self._path)
            if there is None and (self._forth or not (self._deleted or self._late)):
                self._gone = True
                return "", Retry.USEFUL
            if there is None:
                why, retry = _refused(self._writer.send("POST", self._parent, as_new(self._before)))
                return why or _UNREAD, retry
            if "deletionTimestamp" in there["metadata"]:
                return "it is still being deleted", Retry.USEFUL
            if self._forth is None and differs(there, self._before):
                return "there is another one of its name, which says something else", Retry.POINTLESS
            if self._late:
                return self._touch()
            if _is(there, self._before, self._back):
                return "", Retry.USEFUL
            if self._forth and self._made and _is(there, self._made, self._forth):
                why, retry = _refused(self._patched(there, self._back))
                return why or _UNREAD, retry
            return "somebody has changed it meanwhile", Retry.POINTLESS
        except LabError as error:
            return error.message, Retry.USEFUL

    def _touch(self) -> tuple[str, Retry]:
        """Raise the version of the object: a change that comes late is of an earlier one, and gets a 409."""
        for value in ("", None):
            answer = self._writer.send("PATCH", self._path, {"metadata": {"annotations": {_TOUCHED: value}}}, _MERGE)
            if answer.status != 200:
                # It may have gone by the change that is waited for.
                return ("it is gone", Retry.USEFUL) if answer.status == 404 else _refused(answer)
        self._late = False
        return _UNREAD, Retry.USEFUL

    def _patched(self, there: Object, patch: Object) -> Answer:
        """Patch it as it was just read, and no later version."""
        meta = {**patch.get("metadata", {}), "resourceVersion": there["metadata"].get("resourceVersion")}
        return self._sent("PATCH", {**patch, "metadata": meta}, _MERGE)

    def _sent(self, method: str, body: Object, content_type: str = "application/json") -> Answer:
        """Change one version of the object."""
        late, self._late = self._late, True
        answer = self._writer.send(method, self._path, body, content_type)
        # After these answers there is no such version any more, so none that came before can be made either.
        self._late = answer.status >= 500 or (late and answer.status not in (200, 404, 409))
        return answer

    def _repeated(self, step: t.Callable[[], tuple[str, Retry]], seconds: float) -> str:
        """Do a step until nothing is left to say, or trying again is of no use; what is left."""
        rule: Wait[tuple[str, Retry]] = Wait(seconds, lambda said: [Reason(*said)] if said[0] else [])
        return repeat(step, rule, self._writer, _INTERVAL).last[0]


def path_of(item: Object) -> str:
    """Path of an object in the API."""
    space, name = namespace_of(item), item["metadata"]["name"]
    if item["kind"] == "Namespace":
        return f"{NAMESPACE_PATH}/{name}"
    return f"{PATHS[item['kind']].format(f'/namespaces/{space}')}/{name}"


def _refused(answer: Answer) -> tuple[str, Retry]:
    """Why the API refuses, "" where it does not, and whether it may take it a moment later."""
    if answer.status < 300:
        return "", Retry.USEFUL
    said = status_message(answer.body) or f"HTTP {answer.status}"
    if answer.status == 403 and " cannot " in said:
        raise LabError(missing_right(said))
    # 409: somebody, as istiod its status, has written it in between.
    return f"the API refuses it: {said}", Retry.unless(answer.status != 409 and answer.status < 500)


def _fields(item: Object) -> Object:
    """What of an object a mutant may change."""
    spec = {"spec": item["spec"]} if "spec" in item else {}
    return {**spec, "metadata": {"labels": item["metadata"].get("labels") or {}}}


def _patch(old: Object, new: Object) -> Object:
    """The merge patch from one object to another."""
    found: Object = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        there = old.get(key)
        if not (isinstance(value, dict) and isinstance(there, dict)):
            found |= {key: value} if value != there else {}
        elif inner := _patch(there, value):
            found[key] = inner
    return found


def _is(there: Object, item: Object, patch: Object) -> bool:
    """Whether an object is as a patch has made another one; of a spec all counts, because its parts mean one thing."""
    return _follows(there, patch) and ("spec" not in patch or there.get("spec") == item.get("spec"))


def _follows(there: Object, patch: Object) -> bool:
    """Whether a merge patch would change nothing."""
    return all(
        _follows(there.get(key) or {}, value) if isinstance(value, dict) else there.get(key) == value
        for key, value in patch.items()
    )

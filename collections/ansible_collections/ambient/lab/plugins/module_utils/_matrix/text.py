# Writes a matrix as a claims file that people read, edit and commit, and reads such a file.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
import os
import re
import textwrap
import typing as t

from .._claims.parse import DEFAULT_CODES, Claim, parse_claims
from .._common.errors import LabError
from .._common.files import read_text
from .._common.text import place_of, printable
from .._mesh.mesh import Object
from .diff import State, is_policy
from .plan import Pair

# The Kubernetes client needs it too, and the module says when that one is missing.
with contextlib.suppress(ImportError):
    import yaml

_HEAD = """\
---
# Who may call whom, as real traffic showed it; written by ambient.lab.claims_matrix.
# Edit what should be otherwise, and commit the file. With state observe the module writes it anew.
# Prove every claim of it:
#   - ambient.lab.curl_outcomes:
#       claims: "{{{{ (lookup('ansible.builtin.file', '{name}') | from_yaml).claims }}}}"
# See what has opened or closed since:
#   - ambient.lab.claims_matrix:
#       state: compare
#       file: {name}
#       namespaces: [{namespaces}]
"""
_PODS = """\
# Names with "pod of" go to a pod's own address, around the waypoint. A new pod has another address: state compare
# finds it by the claim's name.
"""


def file_text(
    path: str,
    namespaces: t.Sequence[str],
    cells: t.Sequence[tuple[Pair, State]],
    notes: t.Mapping[str, str],
    comments: t.Iterable[str],
) -> str:
    """The file's text. The same matrix gives the same text: there is no time and no pod's name in it.

    Args:
        path: of the file, for the head.
        namespaces: that the matrix spans, for the head.
        cells: what was seen, in the order of the matrix.
        notes: what to say of a source, by its name.
        comments: on what is no claim.
    """
    lines = [_HEAD.format(name=os.path.basename(path), namespaces=", ".join(namespaces))]
    if any(pair.pod for pair, _seen in cells):
        lines.append(_PODS)
    lines += [f"# {printable(comment)}\n" for comment in comments]
    lines.append("claims:\n")
    last = ""
    for (pair, state), text in zip(cells, claims_text([as_claim(*cell) for cell in cells]), strict=True):
        if pair.origin != last:
            note = notes.get(pair.origin)
            lines.append(f"  # From {pair.origin}" + (f", {note}\n" if note else "\n"))
            last = pair.origin
        lines.append(textwrap.indent(text, "  "))
        if state.policy and not is_policy(state.policy):
            lines.append(f"    # denied by {printable(state.policy)}\n")
    return "".join(lines)


def as_claim(pair: Pair, state: State) -> Object:
    """A cell as curl_outcomes takes it."""
    claim = pair.claim
    source, request = claim.source, claim.request
    raw: Object = {
        "name": claim.name,
        "from": {"service_account": source.service_account, "namespace": source.namespace},
        "to": request.url if request.method == "GET" else {"url": request.url, "method": request.method},
        "expect": _expect(state),
    }
    return {**raw, "by": state.policy} if state.policy and is_policy(state.policy) else raw


def _expect(state: State) -> object:
    codes = sorted(state.codes or ())
    if not codes or DEFAULT_CODES.get(state.outcome) == state.codes:
        return state.outcome
    return {"outcome": state.outcome, "http_code": codes[0] if len(codes) == 1 else codes}


def claims_text(claims: t.Sequence[Object]) -> list[str]:
    """Each claim as an item of the list, with the keys in the order in which people read them."""
    # libyaml's writer is the same one, many times as fast; not every PyYAML has it.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(
        claims, Dumper=dumper, default_flow_style=None, sort_keys=False, width=10_000, allow_unicode=True
    )
    return re.findall(r"^- (?:.*\n)(?:^  .*\n)*", text, re.MULTILINE)


def read_claims(path: str) -> tuple[Claim, ...]:
    """The claims of a file.

    Raises:
        LabError: when there is none, or it holds something else.
    """
    text = read_text("file", path, errors="strict")
    if text is None:
        raise LabError(f"file: {path} does not exist; write it with state=observe first")
    try:
        # libyaml's reader is the same one, ten times as fast; not every PyYAML has it.
        content = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise LabError(f"file: {path} is no YAML{place_of(error)}") from None
    if not isinstance(content, dict) or set(content) != {"claims"}:
        raise LabError(f"file: {path} must be a mapping with the one key `claims`")
    try:
        return parse_claims(content["claims"], "default")
    except LabError as error:
        raise LabError(f"file: {path}: {error.message}") from error

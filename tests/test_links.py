"""Every link, picture and file name in the project's Markdown leads to something that git knows."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from project import COLLECTION, ROOT, tracked

FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")
# [text](target "title"), also around a picture; src="..." and href="..." of HTML within Markdown.
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|\b(?:src|srcset|href)=\"([^\"]+)\"")
OUTSIDE = re.compile(r"^[a-z][a-z+.-]*:")
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
# Code that names a file of the project: a path with a folder, and an ending that the project has; * stands for many.
PATH = re.compile(
    r"^(?!\.lab/|\.venv/)[\w.*-]+(?:/[\w.*-]+)*/[\w.*-]+\.(?:cfg|css|go|js|j2|json|md|py|sh|svg|toml|yml)$"
)
MARKDOWN = tracked("*.md")


@cache
def known() -> frozenset[str]:
    """Files and folders that git knows, as paths from the root."""
    files = tracked()
    return frozenset(files) | {str(folder) for path in files for folder in Path(path).parents}


@cache
def anchors(path: str) -> frozenset[str]:
    """The anchors of a file's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in HEADING.findall(FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return frozenset(found)


def problem(path: str, link: str) -> str:
    """Why a link of a file leads nowhere, empty where it leads somewhere."""
    target, _hash, anchor = link.partition("#")
    place = (ROOT / path).parent / target if target else ROOT / path
    try:
        name = str(place.resolve().relative_to(ROOT))
    except ValueError:
        return f"{link} leads out of the project"
    if name not in known():
        return f"{link} leads to nothing"
    if anchor and name.endswith(".md") and anchor not in anchors(name):
        return f"{link}: {name} has no heading for it"
    return ""


def named(path: str, code: str) -> bool:
    """Whether code that reads like a path is one: from the file's folder, one around it, or in the collection."""
    around = [folder for folder in (ROOT / path).parents if folder.is_relative_to(ROOT)]
    bases = [
        *around,
        COLLECTION,
        COLLECTION / "plugins",
        COLLECTION / "plugins/module_utils",
        COLLECTION / "plugins/plugin_utils",
    ]
    return any(str(found.relative_to(ROOT)) in known() for base in bases for found in base.glob(code))


@pytest.mark.parametrize("path", MARKDOWN)
def test_links_lead_somewhere(path: str) -> None:
    text = FENCE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    links = ["".join(found) for found in LINK.findall(CODE.sub("", text))]
    broken = [problem(path, link) for link in links if not OUTSIDE.match(link)]
    broken += [f"`{code}` is no file" for code in CODE.findall(text) if PATH.match(code) and not named(path, code)]
    assert not [words for words in broken if words]

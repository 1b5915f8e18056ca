# What a module that runs in Ansible's process gets.
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.plugin_utils._here.action import plain


class _Text(str):
    """As Ansible's own: a str that knows where it comes from."""

    __slots__ = ()


def test_what_it_gets_is_pythons_own() -> None:
    given = {_Text("a"): [_Text("b"), True, 1, 1.5, None, {"c": (_Text("d"),)}]}
    found = plain(given)
    assert found == {"a": ["b", True, 1, 1.5, None, {"c": ["d"]}]}
    assert type(next(iter(found))) is type(found["a"][0]) is str
    assert [type(item) for item in found["a"][1:4]] == [bool, int, float]

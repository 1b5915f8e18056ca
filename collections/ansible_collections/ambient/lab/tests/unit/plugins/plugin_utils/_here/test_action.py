# What a module that runs in Ansible's process gets, and what it leaves.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
import contextlib
import json
import pathlib

from ansible_collections.ambient.lab.plugins.module_utils._cluster.kube import Kube
from ansible_collections.ambient.lab.plugins.plugin_utils._here.action import plain, remove_keys


class _Text(str):
    """As Ansible's own: a str that knows where it comes from."""

    __slots__ = ()


def test_what_it_gets_is_pythons_own() -> None:
    given = {_Text("a"): [_Text("b"), True, 1, 1.5, None, {"c": (_Text("d"),)}]}
    found = plain(given)
    assert found == {"a": ["b", True, 1, 1.5, None, {"c": ["d"]}]}
    assert type(next(iter(found))) is type(found["a"][0]) is str
    assert [type(item) for item in found["a"][1:4]] == [bool, int, float]


def test_no_key_of_a_kubeconfig_is_left(tmp_path: pathlib.Path) -> None:
    """Also where the next item of a loop uses the same kubeconfig in the same process."""
    key = base64.b64encode(b"a key").decode()
    content = {
        "clusters": [{"name": "lab", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": key}}],
        "users": [{"name": "lab", "user": {"client-certificate-data": key, "client-key-data": key}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    kubeconfig, keys = tmp_path / "kubeconfig", tmp_path / "keys"
    kubeconfig.write_text(json.dumps(content))
    keys.mkdir()
    for _item in range(2):
        with contextlib.suppress(OSError):  # it is no real key; the files are there by then
            Kube(str(kubeconfig), None, str(keys))
        assert list(keys.iterdir())
        remove_keys()
        assert list(keys.iterdir()) == []

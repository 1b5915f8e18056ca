# States of a policy: what is given back of one.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.ambient.lab.plugins.module_utils._convergence.states import as_new


def test_an_object_is_given_back_without_what_the_api_set() -> None:
    policy = {"kind": "K", "metadata": {"name": "p", "uid": "1", "annotations": {"a": "b"}}, "status": {}, "spec": {}}
    assert as_new(policy) == {"kind": "K", "metadata": {"name": "p", "annotations": {"a": "b"}}, "spec": {}}

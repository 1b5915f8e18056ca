# States of a policy: how two differ, which one must be there in the end, and how one is created again.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import typing as t

from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Object

# What the API adds to an object, and a new one must not have.
_SET_BY_API = ("managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink")


def wanted_at_end(final_state: str | None, definition: Object, before: Object | None) -> Object | None:
    """The policy that must be there in the end; None for none.

    Args:
        final_state: present, absent, or None for what was there before.
        definition: the policy that comes and goes.
        before: the policy that was there, None where none was.
    """
    if final_state is None:
        return before
    if final_state == "absent":
        return None
    # One that says the same already is given back as it was.
    return definition if differs(before, definition) else before


def differs(here: Object | None, there: Object | None) -> bool:
    """Whether two states of a policy differ: there or not, what it says, and what people wrote on it.

    Annotations count because of istio.io/dry-run (istio.io, resource annotations): such a policy denies nobody.
    """
    return _written(here) != _written(there)


def _written(policy: Object | None) -> tuple[t.Any, ...] | None:
    """What is in a policy without what the API keeps for itself."""
    if policy is None:
        return None
    return policy.get("spec"), *(policy["metadata"].get(key) or {} for key in ("labels", "annotations"))


def as_new(policy: Object) -> Object:
    """The object without what the API has set, so that it can be created again."""
    metadata = {key: value for key, value in policy["metadata"].items() if key not in _SET_BY_API}
    return {"metadata": metadata, **{key: value for key, value in policy.items() if key not in ("metadata", "status")}}

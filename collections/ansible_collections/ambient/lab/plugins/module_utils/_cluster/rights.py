# Rights that the API has refused, by its own words (Kubernetes' authorization: "cannot get resource ...").
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import dataclasses
import re

# apiserver/pkg/endpoints/handlers/responsewriters/errors.go: forbiddenMessage.
_FORBIDDEN = re.compile(
    r'cannot (?P<verb>\w+) resource "(?P<resource>[\w/-]+)" in API group "(?P<group>[\w.-]*)"'
    r'(?: in the namespace "(?P<namespace>[\w.-]+)"| at the cluster scope)'
)


@dataclasses.dataclass(frozen=True)
class Right:
    """A right that somebody lacks. namespace: "" for all of them."""

    verb: str
    resource: str
    group: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource} in {self.namespace or 'all namespaces'}"

    @property
    def question(self) -> str:
        """Arguments of kubectl that ask for it."""
        resource, slash, part = self.resource.partition("/")
        kind = f"{resource}.{self.group}" if self.group else resource
        return f"auth can-i {self.verb} {kind}{slash}{part} {f'-n {self.namespace}' if self.namespace else '-A'}"


def missing_rights(text: str) -> list[Right]:
    """The rights that messages of the API say are missing, each once."""
    return list(dict.fromkeys(Right(**item.groupdict(default="")) for item in _FORBIDDEN.finditer(text)))

"""SPIFFE identities of workloads (embedded provider alone)."""

from __future__ import annotations

from dataclasses import dataclass

_PREFIX = "spiffe://"


@dataclass(frozen=True, slots=True)
class Identity:
    """`spiffe://<trust domain>/ns/<namespace>/sa/<service account>` (Istio's SPIFFE scheme)."""

    trust_domain: str
    namespace: str
    service_account: str

    def __str__(self) -> str:
        return f"{_PREFIX}{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read an identity from its URI; raises ValueError for any other form."""
        parts = text.removeprefix(_PREFIX).split("/")
        if not text.startswith(_PREFIX) or len(parts) != 5 or parts[1] != "ns" or parts[3] != "sa":
            raise ValueError(f"invalid spiffe identity {text!r}")
        return cls(trust_domain=parts[0], namespace=parts[2], service_account=parts[4])

# One claim in a check: where its pod is, the way of its request, what was predicted, seen, said, and judged.
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# PRIVATE to the collection: may change at any time.

from __future__ import annotations

import dataclasses

from ansible_collections.ambient.lab.plugins.module_utils._check.stable import History, Verdict
from ansible_collections.ambient.lab.plugins.module_utils._claims.parse import Claim, Expectation
from ansible_collections.ambient.lab.plugins.module_utils._claims.sources import Target, Unusable, target_in
from ansible_collections.ambient.lab.plugins.module_utils._curl.control import Probe
from ansible_collections.ambient.lab.plugins.module_utils._curl.outcomes import Seen, probe_error
from ansible_collections.ambient.lab.plugins.module_utils._mesh.mesh import Mesh
from ansible_collections.ambient.lab.plugins.module_utils._mesh.paths import Path
from ansible_collections.ambient.lab.plugins.module_utils._mesh.predictions import Prediction, predict
from ansible_collections.ambient.lab.plugins.module_utils._witness.attribution import Attribution

_NOT_ASKED = "not asked yet"


@dataclasses.dataclass
class ClaimRun:
    """Everything about one claim in a check; a round replaces what it found.

    Attributes:
        claim: what must hold.
        phase: before or after.
        found: the pod that calls, or why it can't.
        path: the way of the request, from the cluster's objects.
        prediction: what it meets there, from the objects alone.
        seen: by the client in the last round.
        control: how that round showed the path alive; None where it did not.
        attribution: of the proxies; None where nobody was asked.
        verdict: of the last round.
        history: of all rounds.
        cause: what probably explains that it does not hold; "" where it does, or nothing is known.
    """

    claim: Claim
    phase: str
    found: Target | Unusable
    path: Path
    prediction: Prediction
    seen: Seen = dataclasses.field(default_factory=lambda: probe_error(_NOT_ASKED))
    control: str | None = None
    attribution: Attribution | None = None
    verdict: Verdict = dataclasses.field(default_factory=lambda: Verdict("error", _NOT_ASKED))
    history: History = dataclasses.field(default_factory=History)
    cause: str = ""

    @classmethod
    def of(cls, claim: Claim, phase: str, mesh: Mesh) -> ClaimRun:
        """A claim that nobody has asked about yet."""
        return cls(claim, phase, *_placed(claim, mesh))

    def look(self, mesh: Mesh) -> None:
        """Find pod, way and prediction as they are now."""
        self.found, self.path, self.prediction = _placed(self.claim, mesh)

    def remember(self, at: float) -> None:
        """Keep this round's answer; at: seconds since the start."""
        self.history.add(at, self.verdict, outcome=self.seen.outcome, http_code=self.seen.http_code)

    @property
    def expect(self) -> Expectation:
        """What must be seen in this phase."""
        return self.claim.expected(self.phase)

    @property
    def probe(self) -> Probe:
        """The claim's own request."""
        return Probe(self.claim.source, self.claim.request)

    @property
    def target(self) -> Target | None:
        """The pod that calls; None where there is none that can."""
        return self.found if isinstance(self.found, Target) else None

    @property
    def by(self) -> str:
        """The policy that must have decided in this phase; "" where the claim names none."""
        return str(self.claim.by) if self.claim.by and self.phase == "after" else ""

    @property
    def holds(self) -> bool:
        """Whether the last round's verdict is a pass."""
        return self.verdict.passed

    @property
    def surprise(self) -> str:
        """How the answer differs from a sure prediction; "" where it does not."""
        predicted = self.prediction.outcome
        if not self.prediction.sure or self.seen.outcome in (predicted, "probe_error"):
            return ""
        if predicted == "broken" and self.seen.outcome != "allowed":
            return ""
        return f"predicted {predicted} ({self.prediction.why}), measured {self.seen}"


def _placed(claim: Claim, mesh: Mesh) -> tuple[Target | Unusable, Path, Prediction]:
    found = target_in(mesh, claim.source)
    pod = found.item if isinstance(found, Target) else None
    return (found, *predict(mesh, pod, claim.request, claim.source.namespace))

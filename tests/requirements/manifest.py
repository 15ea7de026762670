# SPDX-License-Identifier: Apache-2.0
"""Every requirement of the SPIFFE documents that we implement, and what we do not claim.

A test names the requirements that it checks: ``@pytest.mark.requirement("X509-01")``. The documents
themselves, and how we read them, are listed in docs/specs.md; ``test_manifest.py`` holds tests and
manifest against each other.
"""

from dataclasses import dataclass

from tests.requirements import (
    bundle,
    jwt_svid,
    spiffe_id,
    wit_svid,
    workload_api,
    workload_endpoint,
    x509_svid,
)
from tests.requirements.gaps import GAPS

LEVELS = ("MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY", "fact")


@dataclass(frozen=True)
class Requirement:
    """One thing that a document asks for; "fact" is what binds without a keyword.

    With a `gap` no test claims it: the reason says why.
    """

    id: str
    level: str
    reference: str
    sentence: str
    gap: str | None


MANIFEST = {
    id_: Requirement(id_, level, f"{module.DOCUMENT} {section}", sentence, GAPS.get(id_))
    for module in (spiffe_id, x509_svid, jwt_svid, wit_svid, bundle, workload_endpoint, workload_api)
    for id_, level, section, sentence in module.ROWS
}

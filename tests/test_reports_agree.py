# SPDX-License-Identifier: Apache-2.0
"""Whatever an attestor takes from a verifier, the issuer takes from the attestor: else it would be lost."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from attestor.endpoints.verifications import _problem
from issuer.api.reported import reported
from spiffekit.id import TrustDomain
from spiffekit.wire.pb.attestor.v1.verifications_pb2 import Verification
from spiffekit.wire.pb.issuer.v1.audit_reports_pb2 import ReportedEvent, ReportRequest
from spiffekit.wire.reports import KINDS, MAX_NUMBER

NAMES = ["", "t", "x" * 255, "x" * 256, "a b"]
LINES = ["", "é" * 128, "é" * 129, "a" * 257, "a\nb", "a\u2028b"]
GOOD = {"number": 1, "kind": "mtls", "count": 1}
VALUES = {
    "number": [0, MAX_NUMBER, MAX_NUMBER + 1],
    "kind": [*KINDS, "", "magic"],
    "allowed": [True],
    "reason": LINES,
    "action": LINES,
    "peer": ["", "spiffe://else.test/a", "spiffe://else.test/" + "p" * 2000, "payer"],
    "serial": ["", "0", "1", "9" * 49, "9" * 50, "-1"],
    "jti": NAMES,
    "txn": NAMES,
    "count": [0, 2**32 - 1],
    "bundle": ["", "ab" * 32, "AB" * 32, "a"],
    "policies": [["p"] * 100, ["p"] * 101, ["x" * 200, "y" * 100], *([name] for name in NAMES)],
}
FIELDS = st.sampled_from(sorted(VALUES)).flatmap(
    lambda name: st.tuples(st.just(name), st.sampled_from(VALUES[name]))
)
CHANGES = st.lists(FIELDS, max_size=3, unique_by=lambda change: change[0]).map(dict)


def test_the_fields_that_vary_are_all_there_are():
    assert set(VALUES) == set(Verification.DESCRIPTOR.fields_by_name)


@settings(max_examples=500, deadline=None)
@example({"serial": ""})
@example({"kind": "jwt-svid", "serial": ""})
@example({"jti": ""})
@given(CHANGES)
def test_whatever_the_attestor_takes_the_issuer_takes(changes):
    one = Verification(**GOOD | changes)
    if _problem(one, 0):
        return
    told = {"verifier": "spiffe://example.org/tool", "entry_id": "tool", "run": bytes(16)}
    event = ReportedEvent(number=1, verified={**told, "verification": one})
    (taken,) = reported(ReportRequest(boot=bytes(16), events=[event]), TrustDomain("example.org"))
    assert taken.detail["verification"] == one.number

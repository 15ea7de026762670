# SPDX-License-Identifier: Apache-2.0
"""What the tests of policy ask, and whom."""

from datetime import UTC, datetime

from spiffekit.id import SpiffeId
from spiffekit.policy import Attest, Policies, Policy, Principal, Request, Resource
from spiffekit.policy.request import SVID

NOW = datetime(2026, 1, 1, 9, 30, tzinfo=UTC)  # a Thursday
PAYER = SpiffeId.parse("spiffe://example.org/agent/payer")
ALL = "permit(principal, action, resource);"
NONE = "forbid(principal, action, resource);"


def a_principal(spiffe_id=PAYER, **changes):
    fixed = {
        "owner": "https://idp.example.org|alice",
        "agent_class": "payments",
        "team": "treasury",
        "review_overdue": False,
    }
    return Principal(spiffe_id=spiffe_id, **fixed | changes)


def an_attest(**changes):
    fixed = {"node": "spiffe://example.org/spire/agent/n1", "level": 2}
    return Attest(**fixed | changes)


def a_request(*, kind="Audience", name="bank", at=NOW, attest=None, action=SVID, http=None, **principal):
    return Request(
        action=action,
        principal=a_principal(**principal),
        resource=Resource(kind=kind, id=name),
        at=at,
        attest=attest,
        http=http,
    )


def a_policy(text, name="p", version=1):
    return Policy(name=name, version=version, text=text)


def policies(*texts):
    """One policy for each text, named p1, p2, …"""
    return Policies.compile(a_policy(text, f"p{number}") for number, text in enumerate(texts, 1))


def decide(*texts, **asked):
    return policies(*texts).decide(a_request(**asked))

# SPDX-License-Identifier: Apache-2.0
"""What tests of the attestor are made of: entries, selectors, and proofs of nodes."""

from datetime import UTC, datetime, timedelta

from attestor.cache import Entry
from issuer.errors import NodeRejectedError
from issuer.node import NodeProof
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector

START = datetime(2026, 1, 1, tzinfo=UTC)  # of a FakeClock


def entry(entry_id, *selectors, path=None, created=0, **fields):
    """An entry of example.org; `created` is in seconds."""
    return Entry(
        id=entry_id,
        spiffe_id=SpiffeId.parse(f"spiffe://example.org{path or '/' + entry_id}"),
        selectors=frozenset(map(Selector.parse, selectors or ("unix:uid:1",))),
        created_at=START + timedelta(seconds=created),
        federates_with=tuple(map(TrustDomain.parse, fields.pop("federates_with", ()))),
        **fields,
    )


def selectors(*texts):
    return frozenset(map(Selector.parse, texts))


class Machine:
    """A node attestor that can prove its node again and again: it answers challenges backwards."""

    type = "test"

    def __init__(self, name="machine"):
        self.name = name

    async def payload(self):
        return self.name.encode()

    async def respond(self, challenge):
        return challenge[::-1]


class Backwards:
    """The issuer's half of `Machine`."""

    async def verify(self, payload, challenge, context):
        if await challenge(b"abc") != b"cba":
            raise NodeRejectedError("response does not fit the challenge")
        return NodeProof(context.node_id(f"/test/{payload.decode()}"), can_reattest=True)

# SPDX-License-Identifier: Apache-2.0
"""What tests of the attestor are made of: entries, SVIDs, and an issuer that is a Python object."""

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestor.cache import Entry
from attestor.errors import AttestorError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.selector import Selector
from spiffekit.testing import TestCA

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


class FakeIssuer:
    """Signs what is asked for, for entries it knows, with certificates that begin at its clock's now."""

    def __init__(self, clock, *, lifetime=timedelta(hours=1)):
        self.clock = clock
        self.lifetime = lifetime
        self.ca = TestCA("example.org", now=clock.now())
        self.ids = {}
        self.batches = []
        self.error = None
        self.refused = set()
        self.spoiled = set()

    def grant(self, *entries):
        self.ids |= {entry.id: entry.spiffe_id for entry in entries}

    async def new_x509_svids(self, requests):
        self.batches.append([entry_id for entry_id, _ in requests])
        if self.error is not None:
            raise self.error
        assert self.error is None or isinstance(self.error, AttestorError)
        return {
            entry_id: (b"spoiled",) if entry_id in self.spoiled else (self.sign(self.ids[entry_id], csr),)
            for entry_id, csr in requests
            if entry_id not in self.refused
        }

    def sign(self, spiffe_id, csr, **changes):
        request = x509.load_der_x509_csr(csr)
        assert request.is_signature_valid
        leaf = self.ca.certify(
            request.public_key(),
            **{
                "uris": [str(spiffe_id)],
                "not_before": self.clock.now() - timedelta(seconds=10),
                "lifetime": self.lifetime + timedelta(seconds=10),
                **changes,
            },
        )
        return leaf.public_bytes(serialization.Encoding.DER)

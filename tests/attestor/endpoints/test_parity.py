# SPDX-License-Identifier: Apache-2.0
"""Every method that hands out identities hands out the same ones; SPIRE forgot a filter in one (#6972)."""

import pytest

from tests.attestor.factory import entry

ID = "spiffe://example.org"


@pytest.fixture
def granted(world):
    """Entries that are for this process, for another one, and for a secret store."""
    world.grant(
        entry("web"),
        entry("twin-1", hint="h", created=1),
        entry("twin-2", hint="h", created=2),
        entry("store", store_svid=True),
        entry("elsewhere", "unix:uid:2"),
    )
    return world


async def test_both_kinds_of_svid_are_for_the_same_identities(granted):
    async with granted.serving() as client:
        x509 = await client.first("FetchX509SVID")
        jwt = await client.answer("FetchJWTSVID", audience=["db"])
    expected = [(f"{ID}/web", ""), (f"{ID}/twin-1", "h")]
    assert [(svid.spiffe_id, svid.hint) for svid in x509.svids] == expected
    assert [(svid.spiffe_id, svid.hint) for svid in jwt.svids] == expected

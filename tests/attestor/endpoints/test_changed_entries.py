# SPDX-License-Identifier: Apache-2.0
"""What an open stream is told when the selectors of an entry change."""

import grpc

from tests.attestor.endpoints.world import ended, ids, read
from tests.attestor.factory import entry

WEB, DB = "spiffe://example.org/web", "spiffe://example.org/db"
HELD, NOT_HELD = "unix:uid:1", "unix:uid:2"


async def test_an_entry_comes_and_goes_with_its_selectors(world):
    world.grant(entry("web", HELD), entry("db", HELD, NOT_HELD, created=1))
    async with world.serving() as client:
        stream = client.stream()
        assert ids(await read(stream)) == [WEB]
        # 1. One asks for less than before, and fits.
        world.grant(entry("db", HELD, created=1, revision=1))
        assert ids(await read(stream)) == [WEB, DB]
        # 2. One asks for more, and does not.
        world.grant(entry("web", HELD, NOT_HELD, revision=1))
        assert ids(await read(stream)) == [DB]
        # 3. The last one asks for something else.
        world.grant(entry("db", NOT_HELD, created=1, revision=2))
        assert await ended(stream) == (grpc.StatusCode.PERMISSION_DENIED, "no identity issued")

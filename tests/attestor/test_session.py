# SPDX-License-Identifier: Apache-2.0
"""A node proves itself once, keeps its identity over restarts, and renews it at half of its life."""

import asyncio
import contextlib
from datetime import timedelta

import pytest

from attestor.errors import IssuerUnavailableError
from attestor.issuer_client import Credentials
from attestor.keys import disk
from attestor.node import join_token
from attestor.session import NodeSession
from attestor.state import StateFile
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeClient, FakeIssuer

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


class World:
    """An issuer, and a node with a disk that outlives its daemons."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock)
        self.issuer.tokens = {"token"}
        self.attestor = join_token.create(join_token.Config("token"))
        self.rebootstrap = True
        self.bootstrap = self.issuer.bundle
        self.restart()

    def restart(self):
        """As after a crash: only the disk remains."""
        self.client = FakeClient(self.issuer, Credentials())
        self.keys = disk.create(disk.Config(self.folder / "keys"))
        self.state = StateFile(self.folder / "data", self.issuer.ca.trust_domain)
        self.session = NodeSession(
            self.client,
            self.attestor,
            keys=self.keys,
            state=self.state,
            bootstrap=self.bootstrap,
            rebootstrap=self.rebootstrap,
            clock=self.clock,
        )

    def called(self, name):
        return self.issuer.calls.count(name)

    @contextlib.asynccontextmanager
    async def running(self):
        """The service, as long as the context lasts."""
        service = asyncio.create_task(self.session.run(lambda: None))
        await self.clock.advance(timedelta(0))
        try:
            yield service
        finally:
            service.cancel()
            await asyncio.gather(service, return_exceptions=True)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


async def test_a_node_that_is_killed_again_and_again_renews_at_half_of_its_life(world):
    await world.session.start()
    for minute in range(1, 120):
        async with world.running():
            await world.clock.advance(MINUTE)
        world.restart()
        await world.session.start()
        assert 26 <= left(world) / MINUTE <= 60, minute
    assert world.called("attest") == 1
    assert 3 <= world.called("renew") <= 4


def left(world):
    return world.session.svid.expires_at - world.clock.now()


async def test_a_restart_does_not_put_off_renewal(world):
    await world.session.start()
    await world.clock.advance(25 * MINUTE)
    world.restart()
    await world.session.start()
    assert world.called("renew") == 0
    async with world.running():
        await world.clock.advance(10 * MINUTE)
    assert world.called("renew") == 1


async def test_what_is_late_is_renewed_before_anything_else(world):
    await world.session.start()
    await world.clock.advance(59 * MINUTE)
    world.restart()
    before = len(world.issuer.calls)
    await world.session.start()
    assert world.issuer.calls[before:] == ["renew"]
    assert left(world) > 59 * MINUTE


async def test_a_renewal_that_fails_at_the_start_is_tried_again(world, caplog):
    await world.session.start()
    await world.clock.advance(58 * MINUTE)
    world.restart()
    world.issuer.error = IssuerUnavailableError("Stream removed")
    await world.session.start()
    assert left(world) == 2 * MINUTE
    assert "issuer cannot be used now" in caplog.text
    async with world.running():
        world.issuer.error = None
        await world.clock.advance(SECOND)
    assert left(world) > 59 * MINUTE
    assert world.called("attest") == 1

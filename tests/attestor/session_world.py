# SPDX-License-Identifier: Apache-2.0
"""A node with a disk that outlives its daemons, and an issuer that is a Python object."""

import asyncio
import contextlib
import errno
import os
from datetime import timedelta

from attestor.connection import Credentials
from attestor.keys import disk
from attestor.node import join_token
from attestor.session import NodeSession
from attestor.state import StateFile
from spiffekit.id import SpiffeId
from tests.attestor.factory import Machine
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeClient, FakeIssuer

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
TOKEN_NODE = SpiffeId.parse("spiffe://example.org/spire/agent/join_token/token")
MACHINE = SpiffeId.parse("spiffe://example.org/spire/agent/test/machine")


class Crash(BaseException):
    """kill -9, as far as the disk can tell."""


class Disk(StateFile):
    """A state file that can fail, and that can be the last thing that was written."""

    full = False
    crash = ""

    def save(self, state):
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.crash == "before":
            raise Crash
        super().save(state)
        if self.crash == "after":
            raise Crash


class World:
    """An issuer, and a node with a disk that outlives its daemons."""

    def __init__(self, folder):
        self.folder = folder
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock)
        self.issuer.tokens = {"token"}
        self.bootstrap = self.issuer.bundle
        self.restart()

    def restart(self, *, attestor=None, rebootstrap=True, keys=None):
        """As after a crash: only the disk remains."""
        self.client = FakeClient(self.issuer, Credentials())
        self.keys = keys or disk.create(disk.Config(self.folder / "keys"))
        self.state = Disk(self.folder / "data", self.issuer.ca.trust_domain)
        self.session = NodeSession(
            self.client,
            attestor or join_token.create(join_token.Config("token")),
            keys=self.keys,
            state=self.state,
            bootstrap=self.read_bootstrap,
            rebootstrap=rebootstrap,
            clock=self.clock,
        )

    def read_bootstrap(self):
        """The file that the operator gives the node."""
        if isinstance(self.bootstrap, Exception):
            raise self.bootstrap
        return self.bootstrap

    def restart_as_machine(self, **options):
        """Of a node that can prove itself again."""
        self.restart(attestor=Machine(), **options)

    @property
    def svid(self):
        return self.session.svid

    @property
    def left(self):
        """How long the node's SVID is good for."""
        return self.svid.expires_at - self.clock.now()

    @property
    def kept(self):
        """What a restart would find."""
        return self.state.load(self.keys.load())

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

    @contextlib.asynccontextmanager
    async def starting(self):
        """A start that may take its time."""
        start = asyncio.create_task(self.session.start())
        await self.clock.advance(timedelta(0))
        try:
            yield start
        finally:
            start.cancel()
            await asyncio.gather(start, return_exceptions=True)

# SPDX-License-Identifier: Apache-2.0
"""Fixtures: an issuer that serves, and channels of its callers."""

import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.issuer_api.world import World

MEMORY = "/dev/shm"  # every commit waits for the disk otherwise


@pytest.fixture
def place():
    """A folder with a path short enough for Unix sockets; in memory where that is possible."""
    path = Path(tempfile.mkdtemp(prefix="ia-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def clock():
    """Stands still at the real time, because OpenSSL has no other clock for its handshakes."""
    return FakeClock(datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
async def world(place, clock):
    async with World.open(place, clock) as made:
        yield made


@pytest.fixture
async def local(world):
    return await world.local()


@pytest.fixture
async def channel(world):
    """A channel of the node n1."""
    return await world.dial(await world.node("n1"))


@pytest.fixture
async def beating(place, clock):
    """A world whose heart beats fast."""
    async with World.open(place, clock, heartbeat=timedelta(milliseconds=20)) as made:
        yield made

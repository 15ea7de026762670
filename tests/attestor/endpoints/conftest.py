# SPDX-License-Identifier: Apache-2.0
"""A node to ask."""

import asyncio
import os

import pytest

from tests.attestor.endpoints.world import WITHIN, World


@pytest.fixture
def make_world(folder):
    """Worlds with options of the Workload API."""
    return lambda **options: World(folder / f"api-{os.urandom(4).hex()}.sock", **options)


@pytest.fixture
def world(make_world):
    return make_world()


async def until(condition):
    """Wait until a condition holds; something else on this loop makes it so."""
    async with asyncio.timeout(WITHIN):
        while not condition():
            await asyncio.sleep(0.001)

# SPDX-License-Identifier: Apache-2.0
"""A database of its own for each test, and a clock that stands still."""

import pytest

from issuer.store import Database
from tests.fakes.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def database(tmp_path, clock):
    database = Database.open(tmp_path / "issuer.db", clock=clock)
    yield database
    database.close()

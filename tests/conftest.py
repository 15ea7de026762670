# SPDX-License-Identifier: Apache-2.0
"""What all tests share: how properties are drawn, and real daemons for those that need them."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from deploy.local import Local

# No property depends on how fast this machine is just now. What fails says how to draw it again.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")


@pytest.fixture(scope="session", autouse=True)
def _no_workload_api_of_this_machine():
    os.environ.pop("SPIFFE_ENDPOINT_SOCKET", None)


@pytest.fixture(scope="module")
def folder():
    """A folder with a path short enough for Unix sockets (108 bytes)."""
    path = Path(tempfile.mkdtemp(prefix="sa-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def local(folder):
    """An issuer and one attestor with the default settings, shared by the tests of a module."""
    with Local(folder) as deployment:
        deployment.start_issuer()
        deployment.start_attestor()
        yield deployment


@pytest.fixture(scope="module")
def attestor(local):
    return local.attestors["attestor"]

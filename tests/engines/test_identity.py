# SPDX-License-Identifier: Apache-2.0
"""The whole way: containers of a real engine earn identities from a real attestor and issuer."""

import sys

import pytest

from deploy.local import Local
from tests.engines import docker, podman
from tests.system.conftest import eventually, ids_of

FETCH = """
import asyncio, sys
from spiffekit.errors import NoIdentityIssuedError
from spiffekit.workload import WorkloadApi

async def main():
    async with WorkloadApi.connect("unix:///public/api.sock") as api:
        while True:
            try:
                return [str(svid.spiffe_id) for svid in (await api.fetch_x509()).svids]
            except NoIdentityIssuedError:
                if sys.argv[1:] == ["once"]:
                    return []

print(*asyncio.run(asyncio.wait_for(main(), 30)))
"""


@pytest.fixture(scope="module", params=[docker, podman], ids=["docker", "podman"])
def engine(request, tmp_path_factory):
    with request.param.running(tmp_path_factory.mktemp("engine")) as one:
        yield one


@pytest.fixture(scope="module")
def attestor(engine, tmp_path_factory):
    with Local(tmp_path_factory.mktemp("local")) as local:
        local.start_issuer()
        kind = f"workload_attestor.{engine.kind}"
        yield local.start_attestor(settings={kind: {"socket_path": str(engine.socket)}})


def test_each_container_earns_its_own_identity_and_the_host_none(engine, attestor):
    for app in "ab":
        selectors = (f"{engine.kind}:label:app:{app}", "unix:uid:1234")
        attestor.deployment.register(f"/{app}", attestor.node_id, *selectors)
    attestor.deployment.register("/ready", attestor.node_id, "unix:uid:0")
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/ready"])
    options = ("--user=1234", f"--volume={attestor.socket.parent}:/public")
    fetch = (sys.executable, "-c", FETCH)
    for app in "ab":
        told = engine.run(*options, command=fetch, detached=False, app=app)
        assert told == f"spiffe://example.org/{app}"
    with engine.running(*options, app="a") as (container, first):
        assert engine("exec", container, *fetch) == "spiffe://example.org/a"
        assert engine("exec", "--user=1235", container, *fetch, "once") == ""
        assert f"{engine.kind}:label:app:a" in attestor.explain(first.pid)
    assert ids_of(attestor) == ["spiffe://example.org/ready"]

# SPDX-License-Identifier: Apache-2.0
"""Agents that prove who they are to a tool server, and never hold a key, with real daemons."""

import asyncio
import json
import subprocess
import sys

import grpc
import pytest

from spiffekit.errors import NoIdentityIssuedError, ReplayedError, WorkloadApiError
from spiffekit.witsvid import Presentation, Replays, WitSvid
from spiffekit.workload import WitSource, WorkloadApi
from tests.attestor.endpoints.world import Client
from tests.system.conftest import UID, eventually, ids_of
from tests.system.test_evidence import audit

TOOL = "https://tools.example/run"
AGENT = """
import asyncio, json, sys
from spiffekit.workload import WitSource

async def main():
    async with WitSource.open(sys.argv[1]) as source:
        for line in sys.stdin:
            presented = await source.prove(line.strip())
            print(json.dumps(presented.headers()), flush=True)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def settings():
    return {"issuer": {"wit": True}}


@pytest.fixture(scope="module")
def attestor(local):
    return local.start_attestor(settings={"attestor": {"wit": True}})


@pytest.fixture
def agent(local, attestor):
    """An entry that gives each process an identity of its own."""
    entry_id = local.register("/agent", attestor.node_id, UID, options=["--perProcess"])
    eventually(lambda: ids_of(attestor), ["spiffe://example.org/agent"])
    yield entry_id
    local.operator("entry", "delete", "--entryID", entry_id, check=False)  # a test may have deleted it


@pytest.fixture
def start(attestor, agent):
    """Start processes that print what they would send with a request for each URI that they read."""
    started = []

    def begin():
        process = subprocess.Popen(
            [sys.executable, "-c", AGENT, attestor.endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def request(process, uri=TOOL):
    """What the process sends."""
    process.stdin.write(uri + "\n")
    process.stdin.flush()
    return Presentation.from_headers(json.loads(process.stdout.readline()))


def serve(attestor, *requests):
    """What a tool server makes of requests: an SVID or an error for each."""

    async def judge():
        replays, found = Replays(), []
        async with WitSource.open(attestor.endpoint) as source:
            for presented in requests:
                try:
                    found.append(source.verify(presented, audience=[TOOL], replays=replays, status=None))
                except ReplayedError as error:
                    found.append(error)
        return found

    return asyncio.run(judge())


def test_two_processes_of_one_agent_prove_who_they_are_and_which(local, attestor, start):
    first, second = start(), start()
    asked = [request(first), request(second), request(first)]
    one, two, again = serve(attestor, *asked)
    assert {str(svid.spiffe_id) for svid in (one, two, again)} == {"spiffe://example.org/agent"}
    assert one.public_key == again.public_key != two.public_key
    assert one.claims["agent_instance_id"] == again.claims["agent_instance_id"]
    assert one.claims["agent_instance_id"] != two.claims["agent_instance_id"]
    recorded = json.dumps(audit(local))
    for svid in (one, two):
        assert svid.jti in recorded
        assert svid.claims["agent_instance_id"] in recorded
        assert svid.token not in recorded


def test_what_was_overheard_is_worth_nothing(attestor, start):
    presented = request(start())
    good, replayed = serve(attestor, presented, presented)
    assert isinstance(good, WitSvid)
    assert isinstance(replayed, ReplayedError)


def test_the_key_is_not_handed_out(attestor, agent):
    async def ask():
        async with Client.connect(f"unix:{attestor.socket}") as client:
            return await client.refusal("FetchWITSVID")

    code, words = asyncio.run(ask())
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert words == "keys are not handed out; use attestor.v1.Signer"


def test_an_entry_that_is_gone_proves_nothing_any_more(local, attestor, start, agent):
    process = start()
    assert request(process)
    local.operator("entry", "delete", "--entryID", agent)
    eventually(lambda: ids_of(attestor), [])

    async def prove():
        async with WorkloadApi.connect(attestor.endpoint) as api:
            with pytest.raises(NoIdentityIssuedError):
                await api.sign_proof(TOOL)

    asyncio.run(prove())


def test_switched_off_nothing_of_it_is_there(local):
    plain = local.start_attestor("plain")

    async def prove():
        async with WorkloadApi.connect(plain.endpoint) as api:
            with pytest.raises(WorkloadApiError, match="UNIMPLEMENTED"):
                await api.sign_proof(TOOL)

    asyncio.run(prove())

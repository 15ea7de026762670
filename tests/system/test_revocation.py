# SPDX-License-Identifier: Apache-2.0
"""A story of an agent that is taken back while it talks over mTLS: its streams, keys and connections end."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

from deploy.local import executable, script_environment
from spiffekit.errors import NoIdentityIssuedError, RevokedError
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.workload import (
    JwtSource,
    StatusSource,
    X509Source,
    exact,
    mtls_server_context,
    peer_spiffe_id,
    verify_jwt_svid,
)
from tests.system.conftest import UID

ID = "spiffe://example.org"
TOOL, PAYER = f"{ID}/tool", f"{ID}/agent/payer"
WITHIN = 20.0  # seconds; what a busy machine may take for what has no bound of its own
STREAMS_END = 3.0  # seconds after the operator's command at most
CONNECTIONS_END = 5.0

# The agent: it talks to the tool again and again, and says what happens to it.
AGENT = """
import asyncio, sys
from spiffekit.errors import NoIdentityIssuedError
from spiffekit.id import SpiffeId
from spiffekit.workload import JwtSource, X509Source, exact, mtls_client_context

TOOL = SpiffeId.parse("spiffe://example.org/tool")

def updated(update):
    for svid in update.svids:
        print("svid", svid.serial_number, flush=True)
    if not update.svids:
        print("denied", flush=True)

async def talk(context, port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(b"hello\\n")
    if (answer := await reader.readline()) == b"welcome\\n":
        print("connected", flush=True)
        await reader.read()
        print("cut", flush=True)
    writer.close()

async def main(port):
    async with X509Source.open(on_update=updated) as source, JwtSource.open() as tokens:
        print("token", (await tokens.fetch(["tool"])).token, flush=True)
        context = mtls_client_context(source, exact(TOOL))
        while True:
            try:
                await talk(context, port)
            except (OSError, NoIdentityIssuedError):
                pass
            await asyncio.sleep(0.05)

asyncio.run(main(int(sys.argv[1])))
"""


class Agent:
    """The agent's process, and what it has said."""

    def __init__(self, process):
        self._process = process

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, program, script, endpoint, port):
        process = await asyncio.create_subprocess_exec(
            program,
            script,
            str(port),
            stdout=asyncio.subprocess.PIPE,
            env=script_environment(SPIFFE_ENDPOINT_SOCKET=endpoint),
        )
        try:
            yield cls(process)
        finally:
            process.kill()
            await process.wait()

    async def says(self, wanted, within=WITHIN):
        """Wait until it says something, and return the rest of that line."""
        async with asyncio.timeout(within):
            while True:
                line = (await self._process.stdout.readline()).decode()
                assert line, "the agent has ended"
                first, _, rest = line.strip().partition(" ")
                if first == wanted:
                    return rest


@pytest.fixture
def program(local, attestor, folder):
    """The agent's executable, registered by its path; this process is the tool."""
    path = executable(folder / "bin", "payer")
    local.operator(
        *("agent", "register", "--spiffeID", PAYER, "--ownerIssuer", "https://idp.example.org"),
        *("--owner", "ann", "--purpose", "pays what people have approved"),
    )
    local.operator("agent", "activate", "--spiffeID", PAYER, "--reason", "approved")
    local.register("/agent/payer", attestor.node_id, UID, f"unix:path:{path}")
    ours = Path(sys.executable).resolve()
    local.register("/tool", attestor.node_id, UID, f"unix:path:{ours}")
    return path


async def operator(local, *arguments):
    await asyncio.to_thread(local.operator, *arguments)


async def gets_nothing(program, endpoint):
    """The program starts again, and asks once."""
    process = await asyncio.create_subprocess_exec(
        program,
        "-c",
        "import asyncio; from spiffekit.workload import WorkloadApi\n"
        "async def main():\n"
        "    async with WorkloadApi.connect() as api: await api.fetch_x509()\n"
        "asyncio.run(main())",
        stderr=asyncio.subprocess.PIPE,
        env=script_environment(SPIFFE_ENDPOINT_SOCKET=endpoint),
    )
    _, errors = await asyncio.wait_for(process.communicate(), WITHIN)
    assert process.returncode == 1
    assert NoIdentityIssuedError.__name__ in errors.decode()


async def test_an_agent_is_suspended_resumed_revoked_and_retired_while_it_talks(
    local, attestor, folder, program
):
    script = folder / "payer.py"
    script.write_text(AGENT)

    ended = []

    async def welcome(reader, writer):
        with contextlib.suppress(OSError):
            await reader.readline()
            writer.write(b"welcome\n")
            await reader.read()  # the agent never hangs up by itself
        ended.append(peer_spiffe_id(writer))
        writer.transport.abort()

    async with (
        X509Source.open(attestor.endpoint) as source,
        JwtSource.open(attestor.endpoint) as tokens,
        StatusSource.open(attestor.endpoint) as status,
    ):
        context = mtls_server_context(source, exact(SpiffeId.parse(PAYER)), status=status)
        server = await asyncio.start_server(welcome, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with server, Agent.running(program, script, attestor.endpoint, port) as agent:
            # 1. It has an identity, and talks.
            first = await agent.says("svid")
            token = await agent.says("token")
            asked = {"audience": ["tool"], "status": status}
            assert str(verify_jwt_svid(token, tokens, **asked).spiffe_id) == PAYER
            await agent.says("connected")
            assert source.x509_update().crls == ()

            # 2. Suspended: its stream ends, its connection ends at the tool, and nothing it had is good.
            assert ended == []
            await operator(local, "agent", "suspend", "--spiffeID", PAYER, "--reason", "it behaves oddly")
            await agent.says("denied", STREAMS_END)
            async with asyncio.timeout(CONNECTIONS_END):
                while not ended:
                    await asyncio.sleep(0.01)
            with pytest.raises(RevokedError, match="is suspended"):
                verify_jwt_svid(token, tokens, **asked)
            while not source.x509_update().crls:
                await asyncio.wait_for(source.changed(), WITHIN)
            (lists,) = source.x509_update().revocation_lists.values()
            assert int(first) in lists[0].serials

            # 3. Resumed: it has another identity, and talks again.
            await operator(local, "agent", "resume", "--spiffeID", PAYER, "--reason", "explained")
            second = await agent.says("svid")
            assert second != first
            await agent.says("connected")

            # 4. One certificate is revoked: another takes its place at once, and the old connection ends.
            await operator(local, "revocation", "add", "--serial", second, "--reason", "copied")
            third = await agent.says("svid", STREAMS_END)
            assert third != second
            await agent.says("connected")

            # 5. Retired: that was that.
            await operator(local, "agent", "retire", "--spiffeID", PAYER, "--reason", "replaced")
            await agent.says("denied", STREAMS_END)
            assert SpiffeId.parse(PAYER) in (status.agent_status(TrustDomain("example.org"))).retired
            await gets_nothing(program, attestor.endpoint)

# SPDX-License-Identifier: Apache-2.0
"""A story of a tool server that asks before each call: of policies that change, and an attestor that dies."""

import asyncio
import contextlib
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local import executable
from spiffekit.id import SpiffeId, TrustDomain
from spiffekit.policy import Denial
from spiffekit.status import LIFETIME
from spiffekit.workload import Peer, PolicySource, StatusSource, ToolGate
from tests.fakes.clock import SteppedClock
from tests.system.conftest import UID
from tests.system.test_revocation import Agent, operator

PAYER = SpiffeId.parse("spiffe://example.org/agent/payer")
SERVER = Path(__file__).parent.parent.parent / "examples" / "tool_server.py"
MINUTE = timedelta(minutes=1)
PATIENCE = (
    120.0  # seconds that any one step may take: clients of an attestor that is away ask ever more rarely
)
PERMIT = (
    'permit(principal == Agent::"spiffe://example.org/agent/payer", action == Action::"tool.call", '
    'resource == Tool::"pay_invoice");'
)
SVIDS = 'permit(principal, action == Action::"svid.issue", resource);'

# The agent: it uses the tool again and again on one connection, and says what it hears.
AGENT = """
import asyncio, sys
from spiffekit.errors import NoIdentityIssuedError
from spiffekit.id import SpiffeId
from spiffekit.workload import X509Source, exact, mtls_client_context

SERVER = SpiffeId.parse("spiffe://example.org/tools")

async def talk(context, port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        while True:
            writer.write(b"pay_invoice\\n")
            if not (answer := await reader.readline()):
                print("cut", flush=True)
                return
            print(answer.decode().strip(), flush=True)
            await asyncio.sleep(0.05)
    finally:
        writer.close()

async def main(port):
    async with X509Source.open() as source:
        context = mtls_client_context(source, exact(SERVER))
        while True:
            try:
                await talk(context, port)
            except (OSError, NoIdentityIssuedError):
                print("cut", flush=True)
            await asyncio.sleep(0.05)

asyncio.run(main(int(sys.argv[1])))
"""


@pytest.fixture
def programs(local, attestor, folder):
    """The executables of the agent and of the tool server; this process is a verifier beside them."""
    local.operator(
        *("agent", "register", "--spiffeID", str(PAYER), "--ownerIssuer", "https://idp.example.org"),
        *("--owner", "ann", "--purpose", "pays what people have approved"),
    )
    local.operator("agent", "activate", "--spiffeID", str(PAYER), "--reason", "approved")
    made = {name: executable(folder / "bin", name) for name in ("payer", "tools")}
    local.register("/agent/payer", attestor.node_id, UID, f"unix:path:{made['payer']}")
    local.register("/tools", attestor.node_id, UID, f"unix:path:{made['tools']}")
    local.register("/verifier", attestor.node_id, UID, f"unix:path:{Path(sys.executable).resolve()}")
    return made


async def hears(agent, word, rest=""):
    """Wait until the agent has heard just that; on its way there it may be denied for other reasons."""
    async with asyncio.timeout(PATIENCE):
        while await agent.says(word, PATIENCE) != rest:
            pass


async def recorded(local, decision, policy):
    """Wait until the audit trail has that the tool server decided so about the agent, by these policies."""
    search = ("audit", "search", "--type", "node.verified", "--resource", str(PAYER))
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await asyncio.to_thread(local.operator_json, *search))["events"]
            if [e for e in found if (e["outcome"]["decision"], e.get("policy")) == (decision, policy)]:
                return


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_tool_server_follows_policies_and_status_and_denies_when_it_hears_nothing(
    local, attestor, folder, programs
):
    script = folder / "payer.py"
    script.write_text(AGENT)

    async def put(name, text):
        (folder / f"{name}.cedar").write_text(text)
        wanted = ("--name", name, "--file", str(folder / f"{name}.cedar"), "--reason", "because")
        await operator(local, "policy", "put", *wanted)

    clock = SteppedClock()
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        await put("svids", SVIDS)
        server = await enter(Agent.running(programs["tools"], SERVER, attestor.endpoint, 0))
        port = await server.says("serving", PATIENCE)
        status = await enter(StatusSource.open(attestor.endpoint, clock=clock))
        policies = await enter(PolicySource.open(TrustDomain("example.org"), attestor.endpoint, clock=clock))
        gate = ToolGate(status=status, policies=policies, clock=clock)
        peer = Peer(PAYER, 1, clock.now() - MINUTE, clock.now() + 1000 * MINUTE)

        def verdict():
            decision = gate.decide(peer, "pay_invoice")
            return decision.allowed, decision.denial

        agent = await enter(Agent.running(programs["payer"], script, attestor.endpoint, port))

        # 1. Nothing permits the tool.
        await hears(agent, "denied:", "no policy permits it")
        await until(lambda: verdict() == (False, Denial.NOT_PERMITTED))

        # 2. A policy does, and the next call goes through on the same connection.
        await put("pay", PERMIT)
        await agent.says("done", PATIENCE)
        who, tool, ids, bundle = (await server.says("allowed", PATIENCE)).split()
        assert (who, tool, ids) == (str(PAYER), "pay_invoice", "pay#1")
        assert bundle == local.operator_json("policy", "list")["hash"][:12]
        await until(lambda: verdict() == (True, None))
        whole = local.operator_json("policy", "list")["hash"]
        await recorded(local, "allow", {"ids": ["pay#1"], "bundle": whole})

        # 3. Another forbids it, and ends.
        await put("stop", "forbid(principal, action, resource);")
        await hears(agent, "denied:", "policy stop#1 forbids it")
        await operator(local, "policy", "delete", "--name", "stop", "--reason", "it is over")
        await agent.says("done", PATIENCE)

        # 4. The agent is suspended: its connection is cut, and nothing that it shows is good.
        await operator(local, "agent", "suspend", "--spiffeID", str(PAYER), "--reason", "it behaves oddly")
        await agent.says("cut", PATIENCE)
        await until(lambda: verdict() == (False, Denial.REVOKED))
        await operator(local, "agent", "resume", "--spiffeID", str(PAYER), "--reason", "explained")
        await agent.says("done", PATIENCE)
        await until(lambda: verdict() == (True, None))

        # 5. The attestor dies. Who hears nothing for the life of a status denies, and of policies likewise.
        attestor.daemon.kill()
        clock.ahead = LIFETIME
        assert verdict() == (False, Denial.STATUS_UNKNOWN)
        later = clock.now() + 5 * MINUTE
        assert policies.decide_tool(PAYER, "pay_invoice", later).denial is Denial.POLICY_UNKNOWN
        clock.ahead = timedelta(0)

        # 6. It is back: what was laid down meanwhile reaches both servers by themselves.
        await put("stop", "forbid(principal, action, resource);")
        attestor.start()
        await until(lambda: verdict() == (False, Denial.FORBIDDEN))
        await hears(agent, "denied:", "policy stop#1 forbids it")

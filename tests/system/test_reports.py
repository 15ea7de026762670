# SPDX-License-Identifier: Apache-2.0
"""Who fetched which SVID: the attestor saw it, and the audit trail says it, through outages and crashes."""

import asyncio
import contextlib
import hashlib
import os
import subprocess

import pytest

from deploy.local import executable, script_environment
from spiffekit.id import SpiffeId
from spiffekit.workload import (
    Reporter,
    Verification,
    X509Source,
    exact,
    mtls_client_context,
    mtls_server_context,
)
from tests.system.conftest import UID, eventually, ids_of

ID = "spiffe://example.org"
FETCH = """
import asyncio, sys
from spiffekit.workload import WorkloadApi

async def fetch():
    async with WorkloadApi.connect(sys.argv[1]) as api:
        print((await api.fetch_x509()).svids[0].serial_number)

asyncio.run(fetch())
"""


@pytest.fixture(scope="module")
def entry(local, attestor):
    """An entry that everybody here has, known to the attestor."""
    made = local.register("/reported", attestor.node_id, UID)
    eventually(lambda: ids_of(attestor), [f"{ID}/reported"])
    return made


def fetch(attestor, program):
    """Let a program of its own fetch an SVID; return its PID and the serial number."""
    environment = script_environment(SPIFFE_ENDPOINT_SOCKET=attestor.endpoint)
    with subprocess.Popen(
        [program, "-c", FETCH, attestor.endpoint], env=environment, stdout=subprocess.PIPE, text=True
    ) as child:
        serial = child.communicate(timeout=60)[0].strip()
    assert serial
    return child.pid, serial


def found(local, *arguments):
    return local.operator_json("audit", "search", *arguments)["events"]


def told_by_nodes(local):
    """What was recorded of runs of the attestor: starts, ends and gaps, in order."""
    kinds = ("node.started", "node.stopped", "log.gap")
    events = [event for event in found(local, "--since", "1h") if event["type"] in kinds]
    return [event["type"] for event in sorted(events, key=lambda event: int(event["seq"]))]


def test_who_fetched_which_svid_is_found_by_its_serial_number(local, attestor, entry, folder):
    program = executable(folder / "tools", "pricing-agent")
    pid, serial = fetch(attestor, program)
    by_serial = ("--credential", serial, "--type", "node.svid_fetched")
    eventually(lambda: pid in {e["detail"]["process"]["pid"] for e in found(local, *by_serial)}, True)
    (event,) = [e for e in found(local, *by_serial) if e["detail"]["process"]["pid"] == pid]
    digest = hashlib.sha256(program.read_bytes()).hexdigest()
    assert event["detail"]["process"] == {
        "pid": pid,
        "uid": int(UID.rpartition(":")[2]),
        "path": str(program),
        "sha256": digest,
    }
    assert event["actor"] == event["attest"]["node"] == attestor.node_id
    assert (event["resource"], event["detail"]["entry"]) == (f"{ID}/reported", entry)
    assert (event["severity"], event["credential"]["kind"]) == ("info", "x509-svid")
    issued = found(local, "--credential", serial, "--type", "svid.issued")
    assert [e["actor"] for e in issued] == [attestor.node_id]


def test_outages_orderly_stops_and_crashes_are_told_apart(local, attestor, entry, folder):
    program = executable(folder / "tools", "nightly-agent")
    # 1. While the issuer is away a process fetches what the attestor holds; that is told when it is back.
    local.issuer.stop()
    pid, _ = fetch(attestor, program)
    local.start_issuer()
    fetched = ("--type", "node.svid_fetched", "--resource", f"{ID}/reported")
    eventually(lambda: pid in {e["detail"]["process"]["pid"] for e in found(local, *fetched)}, True, 120)
    assert told_by_nodes(local) == ["node.started"]
    # 2. An attestor that is stopped tells the last of what it saw, and that nothing follows.
    pid, _ = fetch(attestor, program)
    attestor.daemon.stop()
    assert told_by_nodes(local) == ["node.started", "node.stopped"]
    assert pid in {e["detail"]["process"]["pid"] for e in found(local, *fetched)}
    attestor.start()
    eventually(lambda: told_by_nodes(local), ["node.started", "node.stopped", "node.started"])
    # 3. One that is killed tells nothing more. The next run of it makes that an alarm.
    attestor.daemon.kill()
    attestor.start()
    eventually(lambda: told_by_nodes(local)[3:], ["log.gap", "node.started"])
    (gap,) = found(local, "--type", "log.gap")
    assert (gap["severity"], gap["resource"]) == ("warning", attestor.node_id)
    assert gap["outcome"]["reason"].startswith("the attestor ended without a word")
    started = found(local, "--type", "node.started")
    assert gap["detail"]["boot"] in {event["detail"]["boot"] for event in started}
    assert len({event["detail"]["boot"] for event in started}) == 3
    assert " lost" not in attestor.daemon.log.read_text()


async def call_the_tool(attestor, wanted):
    """Let this process be a tool server, and its own client; return the serial number of both."""
    anybody = exact(SpiffeId.parse(f"{ID}/reported"))

    async def serve(reader, writer):
        with contextlib.suppress(OSError):
            writer.write(await reader.readline())
            await writer.drain()
        writer.close()

    async with X509Source.open(attestor.endpoint) as source, Reporter.open(attestor.endpoint) as reporter:
        context = mtls_server_context(source, wanted, reporter=reporter)
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=mtls_client_context(source, anybody)
            )
            writer.write(b"hello\n")
            with contextlib.suppress(OSError):
                await reader.readline()
            writer.close()
        reporter.report(
            Verification(
                kind="policy",
                allowed=False,
                reason="over limit",
                peer=SpiffeId.parse(f"{ID}/reported"),
                jti="d-1",
                txn="t-1",
                action="refund",
            )
        )
        serial = str(source.x509_update().svids[0].serial_number)
        async with asyncio.timeout(60):
            while reporter.told < 2:
                await asyncio.sleep(0.02)
    assert (reporter.lost, reporter.told) == (0, 2)
    return serial


def test_what_a_tool_server_made_of_its_callers_is_found_and_traced(local, attestor, entry):
    serial = asyncio.run(call_the_tool(attestor, exact(SpiffeId.parse(f"{ID}/reported"))))
    by_serial = ("--credential", serial, "--type", "node.verified")
    eventually(lambda: len(found(local, *by_serial)), 1)
    (event,) = found(local, *by_serial)
    assert (event["actor"], event["resource"]) == (attestor.node_id, f"{ID}/reported")
    detail = event["detail"]
    assert (detail["verifier"], detail["entry"], detail["verified"]) == (f"{ID}/reported", entry, "mtls")
    assert detail["process"]["pid"] == os.getpid()
    eventually(lambda: len(found(local, "--credential", "d-1")), 1)
    (denied,) = found(local, "--credential", "d-1")
    assert (denied["outcome"], denied["detail"]["txn"], denied["detail"]["action"]) == (
        {"decision": "deny", "reason": "over limit"},
        "t-1",
        "refund",
    )
    assert "let in by" in local.operator("trace", serial).stdout
    (step,) = local.operator_json("trace", "t-1")["told"]
    assert step == denied
    refused = asyncio.run(call_the_tool(attestor, exact(SpiffeId.parse(f"{ID}/somebody-else"))))
    denials = ("--type", "node.verified", "--since", "1h")
    said = f"{ID}/reported is not authorised"
    eventually(lambda: said in {e["outcome"].get("reason") for e in found(local, *denials)}, True)
    assert refused
    assert found(local, "--type", "log.gap", "--actor", attestor.node_id) == [
        gap for gap in found(local, "--type", "log.gap") if "verifier" not in gap["detail"]
    ]


def test_an_operator_may_switch_it_off(local, entry):
    silent = local.start_attestor("silent", {"attestor": {"report": False}})
    local.register("/silent", silent.node_id, UID)
    eventually(lambda: ids_of(silent), [f"{ID}/silent"])
    silent.daemon.stop()
    assert found(local, "--actor", silent.node_id, "--type", "svid.issued")
    assert found(local, "--actor", silent.node_id, "--type", "node.started") == []
    assert found(local, "--actor", silent.node_id, "--type", "node.svid_fetched") == []

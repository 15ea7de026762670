# SPDX-License-Identifier: Apache-2.0
"""attestor.v1.Verifications: a process speaks for itself about its peers, for nobody else, within bounds."""

import os
from datetime import timedelta

import grpc
import pytest

from attestor.endpoints import verifications as module
from attestor.endpoints.verifications import MAX_NUMBER, MAX_TEXT, MAX_VERIFICATIONS, OF_USER
from attestor.peer import Process
from spiffekit.wire.pb.attestor.v1.verifications_pb2 import Verification
from tests.attestor.factory import entry

Code = grpc.StatusCode
PEER = "spiffe://other.org/agent/payer"
DECIDED = {"bundle": "ab" * 32, "policies": ["limits#0"]}
RUN, NEXT = bytes(range(16)), bytes(range(16, 32))


def one(number, **changes):
    fields = {"kind": "mtls", "allowed": True, "peer": PEER, "serial": "4711", "count": 1}
    return Verification(number=number, **{k: v for k, v in (fields | changes).items() if v is not None})


def told(world):
    return [event for event in world.spool.first(1000) if event.HasField("verified")]


def numbers(world):
    """Numbers that are told, and how many are missing before each."""
    return [(event.verified.verification.number, event.verified.missing) for event in told(world)]


@pytest.fixture
def tool(world):
    """A node whose test is a tool server."""
    world.register(entry("tool"), entry("other", created=1), entry("elsewhere", "unix:uid:2"))
    return world


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


async def test_what_a_process_verified_is_told_under_its_own_name(tool):
    mine = one(
        1,
        kind="policy",
        allowed=False,
        reason="over limit",
        action="refund",
        txn="t-1",
        count=3,
        bundle="ab" * 32,
        policies=["limits#0"],
    )
    async with tool.serving() as client:
        assert await client.verified(mine, run=RUN) == 1
    (event,) = told(tool)
    assert (event.process.pid, event.process.uid) == (os.getpid(), os.getuid())
    verified = event.verified
    assert (verified.verifier, verified.entry_id) == ("spiffe://example.org/tool", "tool")
    assert (verified.run, verified.missing, verified.verification) == (RUN, 0, mine)


async def test_a_peer_may_have_shown_nothing(tool):
    nobody = one(1, allowed=False, reason="no certificate", peer=None, serial=None)
    async with tool.serving() as client:
        await client.verified(nobody)
    assert told(tool)[0].verified.verification == nobody


async def test_it_may_say_by_which_of_its_identities_it_speaks_and_by_no_other(tool):
    async with tool.serving() as client:
        await client.verified(one(1), spiffe_id="spiffe://example.org/other")
        for stranger in ("spiffe://example.org/elsewhere", "spiffe://other.org/tool"):
            code, _ = await refusal(client.verified(one(2), spiffe_id=stranger))
            assert code is Code.PERMISSION_DENIED
        code, _ = await refusal(client.verified(one(2), spiffe_id="tool"))
        assert code is Code.INVALID_ARGUMENT
    assert [event.verified.entry_id for event in told(tool)] == ["other"]


async def test_who_has_no_identity_says_nothing(world):
    async with world.serving() as client:
        code, _ = await refusal(client.verified(one(1)))
    assert (code, told(world)) == (Code.PERMISSION_DENIED, [])


async def test_the_rules_of_the_socket_hold(tool):
    async with tool.serving() as client:
        assert (await refusal(client.verified(one(1), metadata=())))[0] is Code.INVALID_ARGUMENT
    assert told(tool) == []


async def test_what_is_sent_again_is_taken_once_and_what_is_missing_is_told(tool):
    async with tool.serving() as client:
        assert await client.verified(one(1), one(2), run=RUN) == 2
        assert await client.verified(one(1), one(2), run=RUN) == 2
        assert await client.verified(one(2), one(3), one(7), run=RUN) == 7
        assert await client.verified(one(4), run=RUN) == 7
        assert await client.verified(one(8), run=RUN, taken=1) == 8
    assert numbers(tool) == [(1, 0), (2, 0), (3, 0), (7, 3), (8, 0)]


async def test_a_run_that_another_attestor_took_before_goes_on(tool):
    async with tool.serving() as client:
        assert await client.verified(one(41), run=RUN, taken=40) == 41
        assert await client.verified(one(5), run=NEXT) == 5
    assert numbers(tool) == [(41, 0), (5, 4)]


async def test_no_process_fills_in_for_another_or_ends_its_numbers(tool, monkeypatch):
    """Whoever learns what names another's run gains nothing by it."""
    async with tool.serving() as client:
        await client.verified(one(1), run=RUN)
        with monkeypatch.context() as patched:
            patched.setattr(Process, "birth", lambda _: (1, 4711))
            assert await client.verified(one(MAX_NUMBER), run=RUN, taken=MAX_NUMBER - 1) == MAX_NUMBER
        assert await client.verified(one(2), run=RUN) == 2
    assert numbers(tool) == [(1, 0), (MAX_NUMBER, 0), (2, 0)]


async def test_runs_that_are_remembered_are_bounded(tool, monkeypatch):
    monkeypatch.setattr(module, "MAX_RUNS", 2)
    async with tool.serving() as client:
        for number in range(4):
            await client.verified(one(1), run=bytes([number]) * 16)
        await client.verified(one(2), run=bytes([3]) * 16)
        await client.verified(one(2), run=bytes([0]) * 16, taken=1)
    assert numbers(tool) == [(1, 0)] * 4 + [(2, 0)] * 2


class Changing:
    """An executable that is the same during the examination, and another one afterwards."""

    def __init__(self):
        self.answers = iter([False])

    def __ne__(self, _other):
        return next(self.answers, True)

    __eq__ = object.__eq__
    __hash__ = object.__hash__


async def test_whoever_executes_something_else_meanwhile_is_not_believed(tool):
    async with tool.serving() as client:
        tool.executable = Changing()
        code, _ = await refusal(client.verified(one(1)))
    assert (code, told(tool)) == (Code.PERMISSION_DENIED, [])


async def test_one_user_does_not_fill_the_trail(tool):
    _, at_once = OF_USER
    async with tool.serving() as client:
        for first in range(1, at_once, MAX_VERIFICATIONS):
            await client.verified(*(one(n) for n in range(first, first + MAX_VERIFICATIONS)))
        code, _ = await refusal(client.verified(one(at_once + 1)))
        assert code is Code.UNAVAILABLE
        await tool.clock.advance(timedelta(seconds=1))
        await client.verified(one(at_once + 1))
    assert len(told(tool)) == at_once + 1


async def test_where_no_audit_trail_takes_it_the_process_is_told_so_at_once(tool):
    tool.spool.disable()
    async with tool.serving() as client:
        assert await refusal(client.verified(one(1))) == (Code.UNIMPLEMENTED, "no audit trail takes reports")


BAD = {
    "verifications: not 1 to 50": [],
    f"verifications: not 1 to {MAX_VERIFICATIONS}": [one(n) for n in range(1, MAX_VERIFICATIONS + 2)],
    "verifications[0].number: is not above": [one(0)],
    "verifications[0].number: ": [one(MAX_NUMBER + 1)],
    "verifications[1].number: is not above": [one(1), one(1)],
    "verifications[0].kind: is none of mtls": [one(1, kind="magic")],
    "verifications[0].reason: is longer": [one(1, reason="é" * (MAX_TEXT // 2 + 1))],
    "verifications[0].reason: ": [one(1, reason="a\nb")],
    "verifications[0].action: ": [one(1, action="\x1b[2J")],
    "verifications[0].serial: is not of the form": [one(1, serial="0x4711")],
    "verifications[0].jti: is not of the form": [one(1, serial=None, jti="a b")],
    "verifications[0].txn: is not of the form": [one(1, txn="x" * 256)],
    "verifications[0].bundle: is not of the form": [one(1, bundle="AB" * 32)],
    "verifications[0].policies: longer than": [one(1, policies=["x" * 129, "y" * 128])],
    "verifications[0].policies: ": [one(1, policies=["x", ""])],
    "verifications[0].policies: more than": [one(1, policies=["x"] * 101)],
    "verifications[0].kind: is none of mtls, jwt-svid, wit-svid, delegation, policy, or a token's": [
        one(1, kind="jwt-svid")
    ],
    "verifications[0].peer: ": [one(1, peer="payer")],
    "verifications[0].count: is 0": [one(1, count=0)],
}


@pytest.mark.parametrize("message", BAD)
async def test_what_breaks_a_rule_is_refused_with_all_that_comes_with_it(tool, message):
    async with tool.serving() as client:
        code, details = await refusal(client.verified(*BAD[message]))
        assert (code, message in details) == (Code.INVALID_ARGUMENT, True)
        assert (await refusal(client.verified(one(1), run=bytes(15))))[1] == "run: needs 16 bytes"
    assert told(tool) == []

# SPDX-License-Identifier: Apache-2.0
"""Who is answered by the Workload API, who is refused, and with which status."""

import asyncio
import os
import sys
from datetime import timedelta

import grpc
import psutil
import pytest

from attestor.cache import Cache
from attestor.endpoints.admission import CALLS_AT_ONCE, CALLS_PER_SECOND, MAX_STREAMS_PER_UID
from attestor.workload import Configured, Facts
from spiffekit.selector import Selector
from spiffekit.wire.workload_api import methods
from tests.attestor.endpoints.world import (
    BUNDLES,
    DB,
    HEADER,
    SERVED,
    STREAMS,
    WITHIN,
    Client,
    ended,
    ids,
    read,
)
from tests.attestor.factory import entry
from tests.fakes.workload_attestors import BuggyAttestor, FailingAttestor

Code = grpc.StatusCode
UID = os.geteuid()
DENIED = (Code.PERMISSION_DENIED, "no identity issued")
UNATTESTED = (Code.UNAVAILABLE, "workload attestation failed")
MISSING = (Code.INVALID_ARGUMENT, "security header missing from request")
METHODS = sorted(methods())


@pytest.mark.requirement("WLAPI-01", "WEP-03", "WEP-08", "WEP-15", "WEP-17", "WEP-26")
async def test_every_method_of_both_profiles_answers_a_client_that_shows_nothing(world):
    """No TLS, no credentials, nothing but the call."""
    world.grant(entry("web"))
    async with world.serving() as client:
        for name, fields in SERVED.items():
            assert await client.answer(name, **fields), name
        (svid,) = (await client.answer("FetchJWTSVID", **DB)).svids
        validated = await client.answer("ValidateJWTSVID", audience="db", svid=svid.svid)
    assert validated.spiffe_id == svid.spiffe_id == "spiffe://example.org/web"


@pytest.mark.requirement("WEP-07", "WEP-18")
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "values",
    [(), ("True",), ("TRUE",), ("1",), ("",), ("false",), ("true", "true"), ("true", "false")],
    ids=lambda values: "+".join(values) or f"none-of-{len(values)}",
)
async def test_without_the_security_header_exactly_so_nobody_is_answered(world, name, values):
    world.grant(entry("web"))
    async with world.serving() as client:
        metadata = tuple(("workload.spiffe.io", value) for value in values)
        assert await client.refusal(name, metadata, **SERVED.get(name, {})) == MISSING
    assert world.unix.asked == 0


@pytest.mark.requirement("WEP-03")
async def test_what_is_not_grpc_gets_no_answer(world):
    async with world.serving():
        reader, writer = await asyncio.open_unix_connection(world.path)
        writer.write(b"GET /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(WITHIN):
            assert await reader.read() == b""
        writer.close()


@pytest.mark.requirement("WEP-01", "WEP-02", "WEP-04", "WEP-05")
async def test_it_listens_on_a_unix_socket_and_on_no_network(world):
    def listening():
        return {c.laddr for c in psutil.Process().net_connections("inet") if c.status == psutil.CONN_LISTEN}

    before = listening()
    async with world.serving():
        assert world.path.is_socket()
        assert listening() == before


@pytest.mark.requirement("WEP-24")
async def test_a_method_that_there_is_not_is_unimplemented(world):
    async with world.serving() as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.channel.unary_unary("/SpiffeWorkloadAPI/Nope")(b"", metadata=HEADER, timeout=WITHIN)
    assert caught.value.code() is Code.UNIMPLEMENTED


@pytest.mark.requirement("WLAPI-03", "WLAPI-52", "WEP-24")
@pytest.mark.parametrize("name", ["FetchWITSVID", "FetchWITBundles"])
async def test_the_profile_of_wit_svid_is_unimplemented(world, name):
    world.grant(entry("web"))
    async with world.serving() as client:
        assert await client.refusal(name) == (Code.UNIMPLEMENTED, "the WIT profile is not supported")


@pytest.mark.requirement("WEP-22", "WLAPI-25", "WLAPI-30", "WLAPI-39", "WLAPI-43")
@pytest.mark.parametrize(("name", "fields"), SERVED.items())
async def test_who_has_no_entry_is_denied_and_gets_nothing_before(world, name, fields):
    world.grant(entry("not-us", "unix:uid:2"))
    async with world.serving() as client:
        assert await client.refusal(name, **fields) == DENIED


class ByPid:
    """States nothing but the number that the kernel names."""

    type = "pid"

    async def attest(self, process):
        return Facts(frozenset({Selector("pid", str(process.pid))}))


CALL = """
import grpc, sys
with grpc.insecure_channel(sys.argv[1]) as channel:
    sys.stdin.readline()
    stream = channel.unary_stream("/SpiffeWorkloadAPI/FetchX509SVID")
    answer = next(stream(b"", metadata=[("workload.spiffe.io", "true")], timeout=5))
    print(answer.hex())
"""


@pytest.mark.requirement("WEP-16", "WEP-17", "WLAPI-05")
async def test_two_processes_that_say_the_same_get_what_each_is_entitled_to(world):
    """What they send is equal to the byte: an empty message."""
    world.attestors = [Configured(ByPid())]
    ours, theirs = entry("ours", f"pid:{os.getpid()}"), None
    async with world.serving() as client:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CALL, f"unix:{world.path}",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        theirs = entry("theirs", f"pid:{child.pid}")
        world.grant(ours, theirs)
        mine, (out, _) = await asyncio.gather(client.first(), child.communicate(b"\n"))
    assert ids(mine) == ["spiffe://example.org/ours"]
    said = methods()["FetchX509SVID"].response.FromString(bytes.fromhex(out.decode()))
    assert ids(said) == ["spiffe://example.org/theirs"]


@pytest.mark.requirement("WLAPI-05")
def test_no_request_has_a_field_that_could_name_the_caller():
    fields = {
        name: sorted(field.name for field in method.request.DESCRIPTOR.fields)
        for name, method in methods().items()
        if method.request.DESCRIPTOR.fields
    }
    # The ID that is asked for names one of the caller's own; a token to judge is somebody else's.
    assert fields == {
        "FetchJWTSVID": ["audience", "spiffe_id"],
        "FetchWITSVID": ["spiffe_id"],
        "ValidateJWTSVID": ["audience", "svid"],
    }


async def test_a_call_round_the_listener_is_denied(world):
    world.grant(entry("web"))
    async with world.serving(), Client.connect(f"unix:{world.front._inner}") as round_it:
        for name, fields in SERVED.items():
            assert await round_it.refusal(name, **fields) == (
                Code.PERMISSION_DENIED,
                "caller cannot be identified",
            )


@pytest.mark.requirement("WEP-20")
@pytest.mark.parametrize("name", [*STREAMS, "ValidateJWTSVID"])
async def test_before_there_is_a_bundle_it_is_unavailable(world, name):
    world.cache = Cache(world.ca.trust_domain)
    world.grant(entry("web"))
    fields = {"audience": "db", "svid": world.ca.jwt("spiffe://example.org/web", ["db"])}
    async with world.serving() as client:
        answered = await client.refusal(name, **({} if name in STREAMS else fields))
    assert answered == (Code.UNAVAILABLE, "not ready")


@pytest.mark.requirement("WEP-20")
@pytest.mark.parametrize("kind", [FailingAttestor, BuggyAttestor])
@pytest.mark.parametrize(("name", "fields"), SERVED.items())
async def test_when_no_attestor_can_say_it_is_unavailable(world, kind, name, fields):
    """A denial would make the client drop what it has."""
    world.grant(entry("web"))
    world.attestors = [Configured(kind("unix"))]
    async with world.serving() as client:
        assert await client.refusal(name, **fields) == UNATTESTED


@pytest.mark.parametrize("kind", [FailingAttestor, BuggyAttestor])
async def test_an_attestor_that_fails_withholds_only_what_depends_on_it(world, kind):
    world.grant(entry("plain"), entry("both", "unix:uid:1", "docker:label:a", created=1))
    world.attestors.append(Configured(kind("docker")))
    async with world.serving() as client:
        assert ids(await client.first()) == ["spiffe://example.org/plain"]


async def test_without_the_word_of_a_required_attestor_there_is_no_answer(world):
    world.grant(entry("web"))
    world.attestors.append(Configured(FailingAttestor("docker"), required=True))
    async with world.serving() as client:
        assert await client.refusal("FetchX509SVID") == UNATTESTED


async def test_an_error_that_nobody_foresaw_is_internal_and_says_nothing(world, caplog):
    world.grant(entry("web"))

    def fail(_selectors):
        raise RuntimeError("secret of ours")

    world.cache.update = fail
    async with world.serving() as client:
        assert await client.refusal("FetchX509SVID") == (Code.INTERNAL, "internal error")
    assert "secret of ours" in caplog.text


@pytest.mark.requirement("WEP-20")
async def test_a_user_that_calls_without_end_waits_and_may_call_again(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        await client.first()
        world.admission._calls.spend(UID, int(CALLS_AT_ONCE) - 1)
        for name, fields in SERVED.items():
            code, details = await client.refusal(name, **fields)
            assert (code, "too many requests" in details) == (Code.UNAVAILABLE, True)
        await world.clock.advance(timedelta(seconds=len(SERVED) / CALLS_PER_SECOND))
        for name, fields in SERVED.items():
            assert await client.answer(name, **fields)


@pytest.mark.requirement("WEP-20")
async def test_a_user_has_so_many_streams_and_one_that_ends_makes_room(world):
    world.grant(entry("web"))
    async with world.serving() as client:
        world.admission._streams[UID] = MAX_STREAMS_PER_UID - 2
        first, second = client.stream(), client.stream("FetchJWTBundles")
        assert await read(first)
        assert await read(second)
        for name in STREAMS:
            assert await client.refusal(name) == (Code.UNAVAILABLE, "too many streams of this user")
        assert await client.answer("FetchJWTSVID", **DB)  # which is no stream
        first.cancel()
        async with asyncio.timeout(WITHIN):
            while (third := client.stream()) and await third.read() is grpc.aio.EOF:
                await asyncio.sleep(0.001)
        second.cancel()
        third.cancel()


@pytest.mark.requirement("WEP-20")
async def test_streams_end_as_unavailable_when_the_daemon_stops(world):
    world.grant(entry("web"))
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"unix:{world.path}", options=options) as channel:
        async with world.serving():
            streams = [Client(channel).stream(name) for name in STREAMS]
            for stream in streams:
                assert await read(stream)
        assert [(await ended(stream))[0] for stream in streams] == [Code.UNAVAILABLE] * 3


@pytest.mark.parametrize("name", BUNDLES)
async def test_unauthenticated_verifiers_get_our_own_bundle_and_no_identity(make_world, name):
    world = make_world(unauthenticated_verifiers=True)
    world.register(entry("not-us", "unix:uid:2", federates_with=["other.org"]), bundles=[world.other.bundle])
    async with world.serving() as client:
        stream = client.stream(name)
        assert set((await read(stream)).bundles) == {"spiffe://example.org"}
        assert await client.refusal("FetchX509SVID") == DENIED
        assert await client.refusal("FetchJWTSVID", **DB) == DENIED
        world.register(entry("us", federates_with=["other.org"]))
        assert set((await read(stream)).bundles) == {"spiffe://example.org", "spiffe://other.org"}
        world.remove("us")
        assert set((await read(stream)).bundles) == {"spiffe://example.org"}

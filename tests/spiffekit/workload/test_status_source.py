# SPDX-License-Identifier: Apache-2.0
"""The source of what is taken back: never half-ready, verified, never older than before, fresh or refused."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest

from spiffekit.bundle import Bundle
from spiffekit.errors import (
    AudienceError,
    RevokedError,
    StatusUnknownError,
    WorkloadApiError,
)
from spiffekit.id import SpiffeId
from spiffekit.jwtsvid import JwtSvid
from spiffekit.status import LIFETIME, MAX_SKEW
from spiffekit.testing import TestCA
from spiffekit.workload import StatusSource, status_source, verify_jwt_svid
from tests.fakes.clock import FakeClock
from tests.spiffekit.workload.conftest import does_not_get_ready, until
from tests.spiffekit.workload.test_live import talking

SECOND = timedelta(seconds=1)
PAYER = SpiffeId.parse("spiffe://example.org/agent/payer")


@pytest.fixture
def ca():
    return TestCA("example.org", now=datetime.now(UTC).replace(microsecond=0))


def keys(api, *bundles):
    """The endpoint says by which keys tokens and statuses are verified."""
    jwks = {f"spiffe://{bundle.trust_domain}": bundle.to_jwt_jwks() for bundle in bundles}
    api.say("FetchJWTBundles", api.messages["JWTBundlesResponse"](bundles=jwks))


@pytest.fixture
async def address(api, path, ca):
    """An endpoint that says by which keys, and what is taken back: nobody."""
    keys(api, ca.bundle)
    api.say_status(ca.status())
    async with api.serving(path) as served:
        yield served


async def opened(address, **options):
    async with StatusSource.open(address, **options) as source:
        return source


# When it is ready.


async def test_it_is_handed_out_with_a_verified_status(address, ca):
    clock = FakeClock(ca.now)
    async with StatusSource.open(address, clock=clock) as source:
        assert source.agent_status(ca.trust_domain).sequence == 1
        assert source.updated_at == clock.now()


async def test_without_a_status_it_says_why(api, address):
    api.say_status("")
    await does_not_get_ready(
        partial(StatusSource.open, address), "no status of agents: the endpoint has none"
    )


async def test_without_keys_it_says_why(api, path, ca):
    api.say_status(ca.status())
    async with api.serving(path) as address:
        await does_not_get_ready(
            partial(StatusSource.open, address),
            "no status of agents: this process is granted no keys to verify one with",
        )


async def test_an_endpoint_that_has_no_such_thing_is_refused_for_good(api, address):
    api.refuse(grpc.StatusCode.UNIMPLEMENTED, "no such service")
    with pytest.raises(WorkloadApiError, match="no such service"):
        await opened(address)


# What it refuses. The attestor may be wrong, or somebody who plays it: the socket's word is not enough.


def other_key(ca):
    another = TestCA("example.org", now=ca.now)
    another.key_id = "unknown"
    return another.status(sequence=2)


REFUSED = {
    "of another trust domain": (
        lambda ca: TestCA("other.org", now=ca.now).status(sequence=2),
        "no bundle for trust domain other.org",
    ),
    "signed by an unknown key": (other_key, "no key of example.org signed the status"),
    "a JWT-SVID": (lambda ca: ca.jwt(str(PAYER)), "status: typ 'JWT' is not agent-status+jwt"),
    "nonsense": (lambda _: "x.y", "status: token is not a compact JWS of three parts"),
    "expired": (
        lambda ca: ca.status(sequence=2, issued_at=ca.now - LIFETIME, expires_at=ca.now),
        "status of example.org has expired",
    ),
    "of the future": (
        lambda ca: ca.status(sequence=2, issued_at=ca.now + 2 * MAX_SKEW, expires_at=ca.now + LIFETIME),
        "status of example.org is of the future: clocks disagree",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
async def test_it_is_not_ready_with_a_status_that_does_not_verify(api, address, ca, make, reason):
    api.say_status(make(ca))
    await does_not_get_ready(partial(StatusSource.open, address), f"no status of agents: {reason}")


@pytest.mark.parametrize(
    ("make", "reason"),
    [*REFUSED.values(), (lambda ca: ca.status(sequence=0), "status 0 of example.org is older than 1")],
    ids=[*REFUSED, "rolled back"],
)
async def test_later_on_it_keeps_the_status_before(api, address, ca, make, reason, caplog):
    async with StatusSource.open(address) as source:
        with caplog.at_level(logging.ERROR):
            api.say_status(make(ca))
            await until(lambda: caplog.records)
        assert source.agent_status(ca.trust_domain).sequence == 1
    assert caplog.records[0].message == "status of agents refused"
    assert caplog.records[0].reason.startswith(reason)


# How it is kept fresh.


async def test_every_newer_status_counts_and_is_told(api, address, ca):
    told = []
    async with StatusSource.open(address, on_update=told.append) as source:
        changed = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        api.say_status(ca.status(sequence=2, suspended=frozenset([PAYER])))
        status = await asyncio.wait_for(changed, 5)
        assert status.suspended == {PAYER}
        assert source.agent_status(ca.trust_domain) is status
        await until(lambda: len(told) == 2)
        assert told[1] is status


async def test_a_status_by_a_new_key_counts_as_soon_as_the_key_is_known(api, address, ca, caplog):
    successor = TestCA("example.org", now=ca.now)
    successor.key_id = "next"
    async with StatusSource.open(address) as source:
        api.say_status(successor.status(sequence=2))
        await until(lambda: caplog.records)
        both = Bundle(ca.trust_domain, (), ca.bundle.jwt_authorities + successor.bundle.jwt_authorities)
        keys(api, both)
        await until(lambda: source.agent_status(ca.trust_domain).sequence == 2)


async def test_an_endpoint_that_is_started_again_is_followed(api, path, ca):
    keys(api, ca.bundle)
    api.say_status(ca.status())
    async with api.serving(path) as address:
        source_context = StatusSource.open(address)
        source = await source_context.__aenter__()
    try:
        assert source.agent_status(ca.trust_domain).sequence == 1
        api.say_status(ca.status(sequence=2))
        async with api.serving(path):
            await until(lambda: source.agent_status(ca.trust_domain).sequence == 2)
    finally:
        await source_context.__aexit__(None, None, None)


async def test_a_status_that_is_not_renewed_is_unknown(api, address, ca):
    clock = FakeClock(ca.now)
    async with StatusSource.open(address, clock=clock) as source:
        clock.step(LIFETIME - SECOND)
        source.agent_status(ca.trust_domain)
        clock.step(SECOND)
        with pytest.raises(StatusUnknownError, match=r"status of example\.org has expired"):
            source.agent_status(ca.trust_domain)
        with pytest.raises(StatusUnknownError):
            source.check_token(JwtSvid.parse_unverified(ca.jwt(str(PAYER))))
        ca.now = clock.now()
        api.say_status(ca.status(sequence=2))
        await until(lambda: source.updated_at == clock.now())
        source.agent_status(ca.trust_domain)


async def test_a_source_that_is_closed_leaves_no_task_behind(address):
    before = len(asyncio.all_tasks())
    await opened(address)
    await until(lambda: len(asyncio.all_tasks()) == before)


# What it is for.


async def test_live_connections_of_who_is_listed_are_closed_when_the_status_comes(api, address, ca):
    async with StatusSource.open(address) as source, talking(ca, server=source) as (reader, _):
        api.say_status(
            ca.status(sequence=2, suspended=frozenset([SpiffeId.parse("spiffe://example.org/client")]))
        )
        assert await reader.read() == b""


async def test_tokens_are_verified_and_not_taken_back(api, address, ca):
    other = TestCA("other.org", now=ca.now)
    token = ca.jwt(str(PAYER), ["db"], claims={"jti": "j"})
    asked = {"bundles": ca.bundle, "audience": ["db"]}
    async with StatusSource.open(address) as source:
        assert verify_jwt_svid(token, status=source, **asked).spiffe_id == PAYER
        with pytest.raises(AudienceError):
            verify_jwt_svid(token, ca.bundle, audience=["web"], status=source)
        api.say_status(ca.status(sequence=2, jtis=frozenset(["j"])))
        await source.changed()
        with pytest.raises(RevokedError, match="token 'j' of"):
            verify_jwt_svid(token, status=source, **asked)
        with pytest.raises(StatusUnknownError):
            verify_jwt_svid(
                other.jwt("spiffe://other.org/x", ["db"]), other.bundle, audience=["db"], status=source
            )
    async with StatusSource.open(address, without_status=[other.trust_domain]) as source:
        verify_jwt_svid(
            other.jwt("spiffe://other.org/x", ["db"]), other.bundle, audience=["db"], status=source
        )


async def test_a_thread_may_read_it(address, ca):
    def read():
        with status_source(address) as source:
            return source.agent_status(ca.trust_domain).sequence

    assert await asyncio.to_thread(read) == 1

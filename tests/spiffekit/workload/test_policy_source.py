# SPDX-License-Identifier: Apache-2.0
"""The source of policies: never half-ready, verified, never older than before, fresh or everything is denied.

Its endpoint is taken for compromised: it says what it likes, but it has no key of the trust domain.
"""

import asyncio
import logging
import sys
from datetime import UTC, datetime, timedelta
from functools import partial

import grpc
import pytest

from spiffekit.errors import PolicyEngineError, WorkloadApiError
from spiffekit.policy import PolicyBook
from spiffekit.policy.bundle import LIFETIME, MAX_SKEW
from spiffekit.testing import TestCA
from spiffekit.workload import PolicySource, policy_source
from tests.fakes.clock import FakeClock
from tests.spiffekit.policy.asked import ALL, NONE, PAYER, a_principal
from tests.spiffekit.workload.conftest import does_not_get_ready, until
from tests.spiffekit.workload.test_status_source import keys

SECOND = timedelta(seconds=1)


@pytest.fixture
def ca():
    return TestCA("example.org", now=datetime.now(UTC).replace(microsecond=0))


@pytest.fixture
def other():
    """A federated trust domain, which the endpoint gives us the keys of."""
    return TestCA("other.org", now=datetime.now(UTC).replace(microsecond=0))


def policies(ca, *texts, **fields):
    return ca.policies(*texts, **{"agents": [a_principal()]} | fields)


@pytest.fixture
async def address(api, path, ca, other):
    """An endpoint that says by which keys, and that everything is permitted to the payer."""
    keys(api, ca.bundle, other.bundle)
    api.say_policies(policies(ca, ALL, sequence=7))
    async with api.serving(path) as served:
        yield served


@pytest.fixture
def taken(monkeypatch):
    """The bundles that were held against those before, whatever came of it."""
    seen, put = [], PolicyBook.put

    def put_and_tell(book, bundle):
        try:
            return put(book, bundle)
        finally:
            seen.append(bundle)

    monkeypatch.setattr(PolicyBook, "put", put_and_tell)
    return seen


def opened(ca, address, **options):
    return PolicySource.open(ca.trust_domain, address, **options)


def asked(source, ca):
    return source.decide_tool(PAYER, "pay", ca.now)


# When it is ready.


async def test_it_is_handed_out_with_verified_policies(address, ca):
    clock = FakeClock(ca.now)
    async with opened(ca, address, clock=clock) as source:
        assert asked(source, ca).allowed
        assert (source.policy_bundle().sequence, source.updated_at) == (7, clock.now())


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "no policies: the endpoint has none"),
        ("nonsense", "no policies: policy bundle: token is not a compact JWS of three parts"),
    ],
)
async def test_without_policies_it_says_why(api, address, ca, said, message):
    api.say_policies(said)
    await does_not_get_ready(partial(opened, ca, address), message)


async def test_without_keys_it_says_why(api, path, ca):
    api.say_policies(policies(ca, ALL))
    async with api.serving(path) as address:
        await does_not_get_ready(
            partial(opened, ca, address),
            "no policies: this process is granted no keys to verify one with",
        )


async def test_an_endpoint_that_has_no_such_thing_is_refused_for_good(api, address, ca):
    api.refuse(grpc.StatusCode.UNIMPLEMENTED, "no such service")
    with pytest.raises(WorkloadApiError, match="no such service"):
        async with opened(ca, address):
            pass


async def test_without_the_engine_there_is_no_source(address, ca, monkeypatch):
    monkeypatch.setitem(sys.modules, "cedarpy", None)
    with pytest.raises(PolicyEngineError):
        async with opened(ca, address):
            pass


# What it refuses.


def by_another_key(ca, _other):
    return policies(TestCA("example.org", now=ca.now), NONE, sequence=8)


def cut(ca, _other):
    return policies(ca, NONE, sequence=8)[:-10]


REFUSED = {
    "rolled back": (
        lambda ca, _: policies(ca, NONE, sequence=6), "policies 6 of example.org are older than 7"
    ),
    "of a federated trust domain": (
        lambda _, other: policies(other, NONE, sequence=8, agents=()),
        "policies of other.org are not those of example.org",
    ),
    "of an unknown trust domain": (
        lambda ca, _: policies(TestCA("third.org", now=ca.now), NONE, sequence=8, agents=()),
        "no bundle for trust domain third.org",
    ),
    "by another key": (by_another_key, "signature is not good"),
    "truncated": (cut, "signature is not of the kind that ES256 uses"),
    "a status": (lambda ca, _: ca.status(sequence=8), "policy bundle: typ 'agent-status+jwt' is not"),
    "a JWT-SVID": (lambda ca, _: ca.jwt(str(PAYER)), "policy bundle: typ 'JWT' is not"),
    "expired": (
        lambda ca, _: policies(ca, NONE, sequence=8, issued_at=ca.now - LIFETIME, expires_at=ca.now),
        "policies of example.org have expired",
    ),
    "of the future": (
        lambda ca, _: policies(
            ca, NONE, sequence=8, issued_at=ca.now + 2 * MAX_SKEW, expires_at=ca.now + LIFETIME
        ),
        "policies of example.org are of the future: clocks disagree",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
async def test_what_does_not_verify_or_is_older_is_refused_and_those_before_hold(
    api, address, ca, other, make, reason, caplog
):
    async with opened(ca, address, clock=FakeClock(ca.now)) as source:
        with caplog.at_level(logging.ERROR):
            api.say_policies(make(ca, other))
            await until(lambda: caplog.records)
        assert asked(source, ca).allowed
        assert source.policy_bundle().sequence == 7
    assert caplog.records[0].message == "policies refused"
    assert caplog.records[0].reason.startswith(reason)


async def test_an_endpoint_that_alternates_two_bundles_never_brings_the_older_one_back(
    api, address, ca, taken
):
    permitted, forbidden = policies(ca, ALL, sequence=8), policies(ca, NONE, sequence=9)
    async with opened(ca, address) as source:
        api.say_policies(forbidden)
        await until(lambda: not asked(source, ca).allowed)
        for said in (permitted, forbidden) * 3:
            before = len(taken)
            api.say_policies(said)
            await until(lambda before=before: len(taken) > before)
            assert asked(source, ca).reason == "policy p1#1 forbids it"


async def test_two_bundles_of_the_same_number_and_second_cannot_be_played_against_each_other(
    api, address, ca, taken
):
    """The first one holds: an honest issuer says the same twice, and signs it anew."""
    async with opened(ca, address) as source:
        api.say_policies(policies(ca, NONE, sequence=7))
        await until(lambda: len(taken) == 2)
        assert asked(source, ca).allowed


async def test_policies_that_break_the_schema_deny_everything_instead_of_those_before(
    api, address, ca, caplog
):
    """Signed they are, by an issuer that knows more than we do: what they forbid cannot be told."""
    async with opened(ca, address) as source:
        api.say_policies(policies(ca, ALL, 'permit(principal == Person::"x", action, resource);', sequence=8))
        await until(lambda: caplog.records)
        decision = asked(source, ca)
        assert (decision.allowed, decision.denial) == (False, "not_evaluated")
        assert source.policy_bundle().sequence == 7
        api.say_policies(policies(ca, ALL, sequence=9))
        await until(lambda: asked(source, ca).allowed)


# How they are kept fresh.


async def test_every_newer_bundle_counts_and_is_told(api, address, ca):
    told = []
    async with opened(ca, address, on_update=told.append) as source:
        changed = asyncio.create_task(source.changed())
        await asyncio.sleep(0)
        api.say_policies(policies(ca, NONE, sequence=8))
        bundle = await asyncio.wait_for(changed, 20)
        assert not asked(source, ca).allowed
        await until(lambda: len(told) == 2)
        assert told[1] is bundle is source.policy_bundle()


async def test_policies_that_are_not_renewed_deny_everything(api, address, ca):
    clock = FakeClock(ca.now)
    api.say_policies(policies(ca, ALL, sequence=8, expires_at=ca.now + 300 * SECOND))
    async with opened(ca, address, clock=clock) as source:
        await until(lambda: source.policy_bundle().sequence == 8)
        assert source.decide_tool(PAYER, "pay", ca.now + 299 * SECOND).allowed
        decision = source.decide_tool(PAYER, "pay", ca.now + 300 * SECOND)
        assert (decision.denial, decision.reason) == (
            "policy_unknown",
            "policies of example.org have expired",
        )
        clock.step(300 * SECOND)
        ca.now = clock.now()
        api.say_policies(policies(ca, ALL, sequence=8))
        await until(lambda: source.updated_at == clock.now())
        assert asked(source, ca).allowed


async def test_an_endpoint_that_is_started_again_is_followed(api, path, ca):
    keys(api, ca.bundle)
    api.say_policies(policies(ca, ALL))
    async with api.serving(path) as address:
        source_context = opened(ca, address)
        source = await source_context.__aenter__()
    try:
        assert asked(source, ca).allowed
        api.say_policies(policies(ca, NONE, sequence=2))
        async with api.serving(path):
            await until(lambda: not asked(source, ca).allowed)
    finally:
        await source_context.__aexit__(None, None, None)


async def test_a_source_that_is_closed_leaves_no_task_behind(address, ca):
    before = len(asyncio.all_tasks())
    async with opened(ca, address):
        pass
    await until(lambda: len(asyncio.all_tasks()) == before)


async def test_a_thread_may_ask_it(address, ca):
    def ask():
        with policy_source(ca.trust_domain, address) as source:
            return asked(source, ca).allowed

    assert await asyncio.to_thread(ask)

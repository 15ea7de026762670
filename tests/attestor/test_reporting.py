# SPDX-License-Identifier: Apache-2.0
"""Events reach the issuer in order and once, through its outages, and to the last one at the end."""

import asyncio
import contextlib
from datetime import timedelta
from itertools import pairwise

import pytest

from attestor import reporting as module
from attestor.errors import IssuerUnavailableError, ReportRejectedError
from attestor.reporting import BATCH, Reporting
from attestor.spool import Spool
from spiffekit.wire.pb.issuer.v1.audit_reports_pb2 import ReportedProcess
from tests.fakes.clock import FakeClock
from tests.fakes.issuer import FakeIssuer

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
MICROSECOND = timedelta(microseconds=1)
ONE = ReportedProcess(pid=1, uid=1000)


class World:
    def __init__(self):
        self.clock = FakeClock()
        self.issuer = FakeIssuer(self.clock)
        self.client = self.issuer.client(self.issuer.node())
        self.spool = Spool(self.clock, limit=1000)
        self.reporting = Reporting(self.client, self.spool, self.clock)

    @contextlib.asynccontextmanager
    async def running(self):
        ready = asyncio.Event()
        task = asyncio.create_task(self.reporting.run(ready.set))
        await ready.wait()
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def add(self, count=1):
        for _ in range(count):
            self.spool.add(refused={"reason": "no_identity"})

    def add_bad(self):
        self.spool.add(ONE, fetched={"entry_id": ""})

    @property
    def told(self):
        """The numbers that the issuer has."""
        return list(self.events)

    @property
    def events(self):
        (known,) = self.issuer.reports.values() or [{}]
        return known

    @property
    def reports(self):
        return self.issuer.calls.count("report")

    async def settle(self, within=5 * SECOND):
        """Let so much time pass, by steps in which others may act."""
        for _ in range(int(within / SECOND)):
            await self.clock.advance(SECOND)


@pytest.fixture
def world():
    return World()


async def test_what_happens_within_a_second_goes_into_one_report(world):
    async with world.running():
        world.add(3)
        await world.settle()
        assert (world.told, world.reports, len(world.spool), world.spool.sent) == ([1, 2, 3], 1, 0, 3)
        await world.settle(3 * MINUTE)
        assert world.reports == 1, "who has nothing to say does not call"
        world.add()
        await world.settle()
        assert world.told == [1, 2, 3, 4]


async def test_many_events_go_in_parts(world):
    async with world.running():
        world.add(2 * BATCH + 1)
        await world.settle()
    assert (world.told, world.reports) == (list(range(1, 2 * BATCH + 2)), 3)


async def test_an_outage_loses_nothing_that_fits_and_is_logged_once(world, caplog):
    caplog.set_level("INFO")
    async with world.running():
        world.issuer.error = IssuerUnavailableError("down")
        for _ in range(5):
            world.add(2)
            await world.settle(MINUTE)
        assert (world.told, len(world.spool)) == ([], 10)
        world.issuer.error = None
        await world.settle(2 * MINUTE)
        assert (world.told, len(world.spool), world.spool.lost) == (list(range(1, 11)), 0, 0)
        assert [record.message for record in caplog.records] == [
            "issuer cannot be told for its audit trail",
            "issuer is told again for its audit trail",
        ]
        world.issuer.error = IssuerUnavailableError("down")
        world.add()
        await world.settle(MINUTE)
        assert caplog.records[-1].reason == "down"


async def test_it_waits_longer_and_longer_while_the_issuer_is_away(world):
    async with world.running():
        world.issuer.error = IssuerUnavailableError("down")
        world.add()
        tries = []
        for _ in range(10):
            await world.settle(MINUTE)
            tries.append(world.reports)
        assert tries[0] > 4
        assert tries[9] - tries[8] <= 3


async def test_one_event_that_is_rejected_does_not_stop_the_others(world, caplog):
    async with world.running():
        world.add(2)
        world.add_bad()
        world.add(2)
        await world.settle()
        assert (world.told[:4], world.spool.lost, len(world.spool)) == ([1, 2, 4, 5], 1, 0)
        (record,) = caplog.records
        assert (record.message, record.reason) == ("issuer rejects an event", "fetched.entry_id: is missing")
        assert (world.told[4:], world.events[6].omitted.lost) == ([6], 1), "it says so itself"


async def test_what_was_lost_or_omitted_is_accounted_for_once_in_a_minute(world):
    async with world.running():
        world.spool.omit_refusal()
        await world.settle(2 * MINUTE)
        assert (world.told, world.events[1].omitted.refusals) == ([1], 1)
        world.spool.omit_refusal()
        world.add()
        await world.settle()
        world.spool.omit_refusal()
        world.add(1500)
        await world.settle(3 * MINUTE)
    told = [event for event in world.events.values() if event.HasField("omitted")]
    assert (sum(one.omitted.lost for one in told), sum(one.omitted.refusals for one in told)) == (500, 3)
    assert all(later.at - one.at >= MINUTE / MICROSECOND for one, later in pairwise(told))


async def test_a_stock_server_is_asked_once_and_nothing_is_kept(world, caplog):
    world.issuer.takes_reports = False
    async with world.running():
        world.add(3 * BATCH)
        await world.settle()
        assert (len(world.spool), world.spool.enabled) == (0, False)
        world.add()
        await world.settle(3 * MINUTE)
        assert (len(world.spool), world.issuer.reports) == (0, {})
    await world.reporting.close()
    assert [record.message for record in caplog.records] == [
        "issuer takes no reports for an audit trail; none are kept until it does"
    ]


async def test_an_issuer_that_was_upgraded_is_told_again_within_minutes(world, caplog):
    """A stock server costs one empty call in a while, no memory, and no more lines in the log."""
    caplog.set_level("INFO")
    world.issuer.takes_reports = False
    async with world.running():
        world.add()
        await world.settle()
        world.add()
        await world.settle(2 * module.AGAIN)
        assert (len(world.spool), world.spool.enabled, len(caplog.records)) == (0, False, 1)
        world.issuer.takes_reports = True
        world.issuer.error = IssuerUnavailableError("restarts")
        await world.settle(module.AGAIN + 2 * MINUTE)
        assert not world.spool.enabled
        world.issuer.error = None
        await world.settle(module.AGAIN + 2 * MINUTE)
        assert world.spool.enabled
        world.add()
        await world.settle()
        assert world.told == [2], "the issuer sees that the first is missing"
    await world.reporting.close()
    assert list(world.issuer.ended.values()) == [2]


async def test_an_issuer_that_becomes_a_stock_server_meanwhile_is_asked_no_more(world, monkeypatch):
    answers = [ReportRejectedError("no"), NotImplementedError()]

    async def report(*_arguments, **_options):
        raise answers.pop(0)

    monkeypatch.setattr(world.client, "report", report)
    async with world.running():
        world.add(5)
        await world.settle()
    assert (answers, len(world.spool), world.spool.enabled) == ([], 0, False)


async def test_at_the_end_the_rest_is_told_and_that_nothing_follows(world):
    async with world.running():
        world.add(BATCH + 7)
        world.spool.omit_refusal()
    await world.reporting.close()
    last = BATCH + 8
    assert world.told == list(range(1, last + 1))
    assert world.events[last].omitted.refusals == 1
    assert list(world.issuer.ended.values()) == [last]


@pytest.mark.parametrize("how", ["away", "silent"])
async def test_the_end_does_not_wait_for_an_issuer_that_is_away(world, caplog, monkeypatch, how):
    world.add()
    if how == "away":
        world.issuer.error = IssuerUnavailableError("down")
    else:
        monkeypatch.setattr(module, "FLUSH", timedelta(milliseconds=10))
        monkeypatch.setattr(world.client, "report", silent)
    await world.reporting.close()
    assert world.issuer.ended == {}
    (record,) = caplog.records
    assert record.message == "issuer is not told for its audit trail how this run ended"
    assert (record.waiting, record.reason) == (1, "down" if how == "away" else "no answer in time")


async def silent(*_arguments, **_options):
    await asyncio.Event().wait()


async def test_who_is_switched_off_or_no_node_yet_says_no_end(world, caplog):
    nobody = world.issuer.client()
    for client, enabled in ((world.client, False), (nobody, True)):
        await Reporting(client, Spool(world.clock, enabled=enabled), world.clock).close()
    world.issuer.takes_reports = False
    world.add()
    await world.reporting.close()
    assert world.issuer.ended == {}
    assert [record.message for record in caplog.records] == [
        "issuer takes no reports for an audit trail; none are kept until it does"
    ]

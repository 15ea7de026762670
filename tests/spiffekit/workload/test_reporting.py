# SPDX-License-Identifier: Apache-2.0
"""A reporter tells what was verified, in the background; it holds nobody up, and says what it lost."""

import asyncio
import threading
from contextlib import asynccontextmanager
from datetime import timedelta

import grpc
import pytest

from spiffekit.errors import WorkloadApiRejectedError, WorkloadApiUnavailableError
from spiffekit.id import SpiffeId
from spiffekit.wire.pb.attestor.v1.verifications_pb2 import ReportVerificationsResponse
from spiffekit.workload import Reporter, Verification, reporter, reporting
from spiffekit.workload.reporting import AGAIN, BATCH, MAX_WAITING
from tests.spiffekit.workload.conftest import until

PEER = SpiffeId.parse("spiffe://example.org/agent/payer")
Code = grpc.StatusCode


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """At the end there is time enough, however busy the machine is."""
    monkeypatch.setattr(reporting, "FLUSH", timedelta(minutes=1))


class Fast:
    """A clock that sleeps as long as a test says, whatever it is asked for."""

    def __init__(self):
        self.asked = []
        self.again = asyncio.Event()  # is set when another try is due

    async def sleep(self, duration):
        self.asked.append(duration)
        await (self.again.wait() if duration == AGAIN else asyncio.sleep(0.001))


class Taking:
    """What an attestor takes."""

    def __init__(self):
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        return ReportVerificationsResponse(taken=request.verifications[-1].number)

    @property
    def taken(self):
        return [one for request in self.requests for one in request.verifications]


@pytest.fixture
def taking(api):
    api.answers["Report"] = Taking()
    return api.answers["Report"]


@pytest.fixture
def opened(api, path):
    @asynccontextmanager
    async def open_(**options):
        clock = options.setdefault("clock", Fast())
        assert clock
        async with api.serving(path) as address, Reporter.open(address, **options) as made:
            yield made

    return open_


def allowed(action="", **fields):
    return Verification(kind="policy", allowed=True, peer=PEER, action=action, **fields)


async def test_what_was_verified_is_told(taking, opened):
    async with opened(subject=SpiffeId.parse("spiffe://example.org/tool")) as made:
        made.report(Verification(kind="mtls", allowed=True, peer=PEER, serial=4711))
        made.report(
            Verification(kind="delegation", allowed=False, reason="widened", jti="d1", txn="t1", action="pay")
        )
        await until(lambda: made.told == 2)
    (request, *_) = taking.requests
    first, second = taking.taken
    assert (len(request.run), request.taken, request.spiffe_id) == (16, 0, "spiffe://example.org/tool")
    assert (first.number, first.kind, first.allowed, first.count) == (1, "mtls", True, 1)
    assert (first.peer, first.serial, first.WhichOneof("credential")) == (str(PEER), "4711", "serial")
    assert (second.number, second.allowed, second.reason, second.peer) == (2, False, "widened", "")
    assert (second.jti, second.txn, second.action) == ("d1", "t1", "pay")


async def test_the_same_again_is_counted(taking, opened):
    async with opened() as made:
        for _ in range(1000):
            made.report(allowed("pay"))
        await until(lambda: made.told >= 1)
        made.report(allowed("pay"))
        await until(lambda: sum(one.count for one in taking.taken) == 1001)
        await until(lambda: made.told == len(taking.taken))
    assert [one.number for one in taking.taken] == list(range(1, len(taking.taken) + 1))
    assert len(taking.taken) < 10


async def test_many_go_in_parts_by_growing_number(taking, opened):
    async with opened() as made:
        for number in range(2 * BATCH + 1):
            made.report(allowed(str(number)))
        await until(lambda: made.told == 2 * BATCH + 1)
    assert [one.number for one in taking.taken] == list(range(1, 2 * BATCH + 2))
    assert [request.taken for request in taking.requests][:2] == [
        0,
        taking.requests[0].verifications[-1].number,
    ]


async def test_it_waits_for_an_endpoint_that_is_away_and_says_so_once(api, taking, opened, caplog):
    async with opened() as made:
        api.refuse(Code.UNAVAILABLE, "away")
        made.report(allowed())
        await until(lambda: api.called("Report") > 3)
        assert made.told == 0
        api._refusal = None
        await until(lambda: made.told == 1)
    assert [record.message for record in caplog.records] == ["verifications cannot be reported now"]


async def test_what_was_taken_and_not_answered_is_sent_again_as_it_was(api, taking, opened):
    answer, failed = api.answers["Report"], []

    def fails_once(request):
        if not failed:
            failed.append(request)
            raise RuntimeError
        return answer(request)

    api.answers["Report"] = fails_once
    async with opened() as made:
        made.report(allowed("pay"))
        await until(lambda: failed)
        made.report(allowed("pay"))
        await until(lambda: made.told == 2)
    assert taking.taken[0] == failed[0].verifications[0]
    assert [(one.number, one.count) for one in taking.taken] == [(1, 1), (2, 1)]


async def test_what_comes_to_the_same_while_it_is_told_is_told_after_it(api, taking, opened):
    def meanwhile(request):
        if not taking.requests:
            made.report(allowed("pay"))
        return taking(request)

    api.answers["Report"] = meanwhile
    async with opened() as made:
        made.report(allowed("pay"))
        await until(lambda: made.told == 2)
    assert [(one.number, one.count) for one in taking.taken] == [(1, 1), (2, 1)]


async def test_what_does_not_fit_is_lost_and_its_number_missing(api, taking, opened):
    async with opened() as made:
        api.refuse(Code.UNAVAILABLE, "away")
        for number in range(MAX_WAITING + 3):
            made.report(allowed(str(number)))
        assert made.lost == 3
        api._refusal = None
        await until(lambda: made.told == MAX_WAITING)
        made.report(allowed("after"))
        await until(lambda: made.told == MAX_WAITING + 1)
    assert [one.number for one in taking.taken][-2:] == [MAX_WAITING, MAX_WAITING + 4]


async def test_an_endpoint_without_an_audit_trail_is_asked_again_later_and_told_from_then_on(
    api, taking, opened, caplog
):
    clock = Fast()
    async with opened(clock=clock) as made:
        api.refuse(Code.UNIMPLEMENTED, "no")
        for tries in range(1, 3):
            made.report(allowed("lost"))
            await until(lambda tries=tries: clock.asked.count(AGAIN) == tries)
            made.report(allowed("not kept"))
            clock.again.set()
            await until(lambda: made._waiting is not None)
            clock.again.clear()
        api._refusal = None
        made.report(allowed("told"))
        await until(lambda: made.told == 1)
    assert [(one.number, one.action) for one in taking.taken] == [(3, "told")]
    assert [record.message for record in caplog.records] == ["verifications are not reported"]


async def test_one_verification_that_is_rejected_is_lost_alone(api, taking, opened, caplog):
    """As told of a peer from another trust domain: whatever it shows ends nobody's reports."""

    async with opened() as made:
        api.refuse(Code.INVALID_ARGUMENT, "verifications[0].bundle: is not of the form")
        for action in ("a", "b", "c"):
            made.report(allowed(action))
        await until(lambda: made.lost == 3)
        api._refusal = None
        made.report(allowed("afterwards"))
        await until(lambda: made.told == 1)
    assert [one.number for one in taking.taken] == [4]
    assert [record.message for record in caplog.records] == ["a verification is not taken, and lost"]


async def test_what_is_told_beside_one_that_is_rejected_is_taken(api, taking, opened):
    """One that is rejected is found among the others, and only its number is missing."""

    def strict(request):
        if any(one.action == "bad" for one in request.verifications):
            raise RuntimeError
        return taking(request)

    api.answers["Report"] = strict
    async with opened() as made:
        send = made._api.report_verifications

        async def report(*arguments, **options):
            try:
                return await send(*arguments, **options)
            except WorkloadApiUnavailableError as error:  # of the server above
                raise WorkloadApiRejectedError("action") from error

        made._api.report_verifications = report
        for action in ("a", "b", "bad", "c", "d"):
            made.report(allowed(action))
        await until(lambda: (made.told, made.lost) == (4, 1))
    assert [one.number for one in taking.taken] == [1, 2, 4, 5]


async def test_a_serial_number_that_no_certificate_may_have_is_left_out(taking, opened):
    """Python itself refuses to write the last one down, which would end the reporter."""
    async with opened() as made:
        for serial in (10**49 - 1, 10**49, 10**5000):
            made.report(Verification(kind="mtls", allowed=True, peer=PEER, serial=serial))
        await until(lambda: made.told == 3)
    assert [one.serial for one in taking.taken] == ["9" * 49, "", ""]


async def test_an_endpoint_without_an_audit_trail_is_no_error_at_the_end(api, taking, opened, caplog):
    async with opened() as made:
        api.refuse(Code.UNIMPLEMENTED, "no")
        made.report(allowed())
    assert (made.lost, taking.requests) == (1, [])
    assert caplog.records[-1].message == "verifications are not reported any more"


async def test_what_waits_is_told_at_the_end(taking, opened):
    async with opened() as made:
        made.report(allowed())
    assert len(taking.taken) == 1
    made.report(allowed())  # too late, and harmless


async def test_the_end_waits_for_nobody_and_says_what_is_lost(api, taking, opened, caplog):
    async with opened() as made:
        api.refuse(Code.UNAVAILABLE, "away")
        made.report(allowed())
    assert (made.lost, taking.requests) == (1, [])
    assert caplog.records[-1].message == "verifications are not reported any more"


async def test_texts_are_cut_to_one_line_that_fits(taking, opened):
    async with opened() as made:
        ids = tuple(f"policy#{n:02}" for n in range(60))
        made.report(allowed("é" * 300, reason="a\nb\x1b", jti="a b", txn="x" * 256, policies=("a b", *ids)))
        await until(lambda: made.told == 1)
    (one,) = taking.taken
    assert (one.reason, one.action, one.txn) == ("a b ", "é" * 128, "")
    assert one.WhichOneof("credential") is None
    assert list(one.policies) == list(ids[:28])


async def test_what_the_trail_would_not_take_is_left_out(taking, opened):
    """Else one verification would be refused, with all that goes along."""
    async with opened() as made:
        made.report(Verification(kind="jwt-svid", allowed=True, serial=4711, policies=("p",) * 101))
        await until(lambda: made.told == 1)
    (one,) = taking.taken
    assert one.WhichOneof("credential") is None
    assert list(one.policies) == ["p"] * 100


async def test_any_thread_may_report(api, path, taking):
    async with api.serving(path) as address:

        def work():
            with reporter(address) as made:
                threads = [threading.Thread(target=made.report, args=(allowed(str(n)),)) for n in range(20)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            made.report(allowed("when its loop is closed"))

        await asyncio.to_thread(work)
    assert len(taking.taken) == 20

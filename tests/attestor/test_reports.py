# SPDX-License-Identifier: Apache-2.0
"""What is told of processes for the audit trail: once, in few words, and no secret."""

import hashlib
import os
from datetime import timedelta

import pytest

from attestor import reports as module
from attestor.errors import PeerGoneError
from attestor.jwt import JwtSvid
from attestor.reports import MAX_NAMES, MAX_TEXT, Handed, Reports
from attestor.spool import Spool
from attestor.workload.examination import Examination
from attestor.workload.postures import PostureChange
from spiffekit.testing import TestCA
from spiffekit.witsvid import WitSvid
from tests.attestor.factory import START, entry, selectors
from tests.attestor.workload.processes import held
from tests.fakes.clock import FakeClock

WEB = entry("web")
SHA256 = "ab" * 32
UID = os.getuid()
ME = (os.getpid(), UID)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def ca(clock):
    return TestCA("example.org", now=clock.now())


@pytest.fixture
def spool(clock):
    return Spool(clock)


@pytest.fixture
def reports(spool, clock):
    return Reports(spool, clock)


@pytest.fixture
def process():
    with held(os.getpid()) as one:
        yield one


def seen(path="/opt/web"):
    found = selectors(f"unix:path:{path}", f"unix:sha256:{SHA256}", "unix:uid:1")
    return Examination((), found, None, None, START)


def told(spool):
    return spool.first(1000)


def jwt(ca, audience=("db",), **claims):
    token = ca.jwt("spiffe://example.org/web", audience=list(audience), claims=claims)
    return JwtSvid.parse_unverified(token)


def test_who_is_handed_an_x509_svid_is_told_by_its_serial_number(reports, spool, process, ca):
    svid = ca.issue("spiffe://example.org/web")
    reports.handed(process, seen(), [Handed(WEB, svid, "a" * 26)])
    (event,) = told(spool)
    assert (event.process.pid, event.process.uid) == ME
    assert (event.process.path, event.process.sha256) == ("/opt/web", SHA256)
    fetched = event.fetched
    assert (fetched.kind, fetched.serial) == ("x509-svid", str(svid.serial_number))
    assert (fetched.spiffe_id, fetched.entry_id) == ("spiffe://example.org/web", "web")
    assert (fetched.instance_uid, fetched.expires_at) == ("a" * 26, int(svid.expires_at.timestamp()))


def test_tokens_are_told_by_their_id_or_else_their_hash_and_never_whole(reports, spool, process, ca):
    named, nameless = jwt(ca, ("db", "cache"), jti="0123"), jwt(ca)
    odd = [jwt(ca, jti=value) for value in ("", "a b", "é", "x" * 256, 7)]
    reports.handed(process, seen(), [Handed(WEB, one) for one in (named, nameless, *odd)])
    first, *others = [event.fetched for event in told(spool)]
    assert (first.kind, first.jti, list(first.audience)) == ("jwt-svid", "0123", ["db", "cache"])
    for fetched, svid in zip(others, (nameless, *odd), strict=True):
        assert fetched.token_sha256 == hashlib.sha256(svid.token.encode()).hexdigest()
    for event, svid in zip(told(spool), (named, nameless, *odd), strict=True):
        assert svid.token.rpartition(".")[2].encode() not in event.SerializeToString()


def test_a_wit_svid_is_one_too(reports, spool, process, ca):
    token = ca.wit("spiffe://example.org/web", ca.wit_key.public_key(), claims={"jti": "w1"})
    reports.handed(process, seen(), [Handed(WEB, WitSvid.parse_unverified(token), "b" * 26)])
    (event,) = told(spool)
    assert (event.fetched.kind, event.fetched.jti, list(event.fetched.audience)) == ("wit-svid", "w1", [])


def test_the_same_svid_again_is_told_once_and_of_each_process(reports, spool, process, ca):
    svid = ca.issue("spiffe://example.org/web")
    for _ in range(3):
        reports.handed(process, seen(), [Handed(WEB, svid)])
    assert len(spool) == 1
    with held(os.getppid()) as other:
        reports.handed(other, seen(), [Handed(WEB, svid)])
    assert len(spool) == 2
    reports.handed(process, seen(), [Handed(WEB, svid), Handed(WEB, ca.issue("spiffe://example.org/web"))])
    assert len(spool) == 3


class Gone:
    """A process that exits in that moment."""

    def __init__(self, process):
        self.pid, self.peer = process.pid, process.peer

    def birth(self):
        raise PeerGoneError("process cannot be examined")


def test_who_exits_in_that_moment_was_handed_it_all_the_same(reports, spool, process, ca):
    svid = ca.issue("spiffe://example.org/web")
    for _ in range(2):
        reports.handed(Gone(process), seen(), [Handed(WEB, svid)])
    assert len(spool) == 2


def test_what_is_remembered_is_bounded(reports, spool, process, ca, monkeypatch):
    monkeypatch.setattr(module, "MAX_REMEMBERED", 2)
    one, two, three = (ca.issue("spiffe://example.org/web") for _ in range(3))
    for svid in (one, two, one, three, two):
        reports.handed(process, seen(), [Handed(WEB, svid)])
    assert len(reports._told) == 2
    assert [event.fetched.serial for event in told(spool)] == [
        str(svid.serial_number) for svid in (one, two, three, two)
    ]


@pytest.mark.parametrize(
    ("path", "fits"),
    [
        ("/" + "x" * (MAX_TEXT - 3), True),
        ("/" + "x" * (MAX_TEXT - 2), False),
        ("/" + "\\" * 1030, False),
        ("/" + "é" * 1000, True),
        ("/" + "é" * 1030, False),
    ],
)
def test_no_process_chooses_a_path_that_makes_its_event_too_long(reports, spool, process, ca, path, fits):
    reports.handed(process, seen(path), [Handed(WEB, ca.issue("spiffe://example.org/web"))])
    (event,) = told(spool)
    assert (event.process.path, event.process.sha256) == (path if fits else "", SHA256)


@pytest.mark.parametrize("audience", [["x" * MAX_TEXT], ["\1" * 300, "\1" * 300], ["x" * 64] * 32])
def test_nor_an_audience(reports, spool, process, ca, audience):
    reports.handed(process, seen(), [Handed(WEB, jwt(ca, audience))])
    (event,) = told(spool)
    assert list(event.fetched.audience) == []


def test_a_refusal_is_told_by_its_reason_and_number(reports, spool, process):
    reports.refused(process, seen(), reason="no_identity", call="0a1b")
    reports.refused(process, None, reason="not_ready", call="0a1c")
    first, second = told(spool)
    assert (first.process.pid, first.process.path) == (os.getpid(), "/opt/web")
    assert (first.refused.reason, first.refused.call) == ("no_identity", "0a1b")
    assert (second.process.path, second.refused.reason) == ("", "not_ready")


def test_who_is_refused_in_a_loop_is_told_once_and_counted(reports, spool, process):
    for number in range(50):
        reports.refused(process, seen(), reason="no_identity", call=f"{number:x}")
    assert len(spool) == 1
    spool.drop(1)
    spool.account()
    assert told(spool)[0].omitted.refusals == 49


async def test_refusals_of_ever_new_processes_are_bounded(reports, spool, process, clock):
    """One user's processes; all users together likewise."""
    gone = Gone(process)
    for _ in range(100):
        reports.refused(gone, None, reason="no_identity", call="00")
    assert len(spool) == 20
    await clock.advance(timedelta(seconds=10))
    reports.refused(gone, None, reason="no_identity", call="00")
    assert len(spool) == 21
    spool.drop(21)
    spool.account()
    assert told(spool)[0].omitted.refusals == 80


def test_of_a_changed_posture_no_value_is_told(reports, spool, process):
    change = PostureChange(
        at=START,
        entries=("web", "db"),
        gone=selectors("unix:path:/secret", "docker:env:PASSWORD=hunter2", "unix:parent:path:/x"),
        new=selectors("unix:path:/other", "slurm-like:anything"),
    )
    reports.posture_changed(process, change)
    (event,) = told(spool)
    assert event.process.pid == os.getpid()
    changed = event.posture_changed
    assert list(changed.entry_ids) == ["web", "db"]
    assert list(changed.gone) == ["docker:env", "unix:parent:path", "unix:path"]
    assert list(changed.new) == ["slurm-like", "unix:path"]
    assert b"hunter2" not in event.SerializeToString()


def test_names_of_a_changed_posture_are_bounded(reports, spool, process):
    many = tuple(str(number) for number in range(200))
    long = tuple(f"{number:0>200}" for number in range(50))
    for entries in (many, long):
        change = PostureChange(at=START, entries=entries, gone=frozenset(), new=frozenset())
        reports.posture_changed(process, change)
    first, second = (event.posture_changed.entry_ids for event in told(spool))
    assert len(first) == MAX_NAMES
    assert len(second) == MAX_TEXT // 202


def test_who_is_switched_off_tells_and_remembers_nothing(reports, spool, process, ca):
    reports.started("1.0")
    assert told(spool)[0].started.version == "1.0"
    reports.refused(process, None, reason="no_identity", call="00")
    spool.disable()
    reports.handed(process, seen(), [Handed(WEB, ca.issue("spiffe://example.org/web"))])
    assert (len(spool), len(reports._told)) == (0, 0)
    reports.refused(process, None, reason="no_identity", call="00")
    assert (len(spool), len(reports._told)) == (0, 0)

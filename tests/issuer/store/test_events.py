# SPDX-License-Identifier: Apache-2.0
"""Events of the audit trail: canonical, bounded, and found again."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import rfc8785
import sqlalchemy as sa
from alembic import command
from hypothesis import given
from hypothesis import strategies as st

from issuer.errors import InvalidRequestError
from issuer.model import AgentFacts, AttestFacts, AuditRecord, CredentialFacts, Outcome, PeerFacts
from issuer.store.audit import AuditFilter
from issuer.store.database import Database, _migrations
from issuer.store.events import MAX_EVENT, decode, encode
from tests.fakes.clock import FakeClock
from tests.issuer.store.test_round_trips import facts, json_values, names, words
from tests.issuer.strategies import instants

LATER = {"audit_issued", "audit_txn"}  # indexes that came after the table
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def a_record(**given):
    basics = {"at": AT, "actor": "local:uid=0,pid=1", "act": "/s.v1.S/M", "type": "svid.issued"}
    return AuditRecord(**(basics | {"subject": "spiffe://example.org/a", "outcome": Outcome.OK} | given))


records = st.builds(
    AuditRecord,
    at=instants,
    actor=words,
    act=words,
    type=words,
    subject=words,
    outcome=st.sampled_from(Outcome),
    reason=words,
    agent=facts(AgentFacts),
    attest=facts(AttestFacts),
    credential=facts(CredentialFacts),
    peer=facts(PeerFacts),
    detail=st.dictionaries(names, json_values, max_size=3),
)


@given(record=records, sequence=st.integers(1, 2**53 - 1))
def test_an_event_is_canonical_json(record, sequence):
    leaf = encode(record).leaf(sequence)
    event = json.loads(leaf)
    assert leaf == rfc8785.dumps(event)
    assert event["seq"] == sequence


def test_an_event_has_the_members_that_are_known():
    record = a_record(
        reason="",
        agent=AgentFacts(spiffe_id="spiffe://example.org/a", owner="https://idp|bob", class_="helper"),
        attest=AttestFacts(node="spiffe://example.org/spire/agent/x", level="tpm"),
        credential=CredentialFacts(kind="x509-svid", serial="7", exp="2026-01-02T04:04:05Z"),
        peer=PeerFacts(ip="192.0.2.1"),
        detail={"entry": "e"},
    )
    event = json.loads(encode(record).leaf(9))
    assert event.pop("id")[14] == "7", "a UUID of version 7"
    assert event == {
        "v": 1,
        "seq": 9,
        "time": "2026-01-02T03:04:05.678901Z",
        "type": "svid.issued",
        "severity": "info",
        "outcome": {"decision": "allow"},
        "actor": "local:uid=0,pid=1",
        "action": "/s.v1.S/M",
        "resource": "spiffe://example.org/a",
        "agent": {"spiffe_id": "spiffe://example.org/a", "owner": "https://idp|bob", "class": "helper"},
        "attest": {"node": "spiffe://example.org/spire/agent/x", "level": "tpm"},
        "credential": {"kind": "x509-svid", "serial": "7", "exp": "2026-01-02T04:04:05Z"},
        "peer": {"ip": "192.0.2.1"},
        "detail": {"entry": "e"},
    }


def test_what_is_not_known_is_not_there():
    refused = json.loads(encode(a_record(subject="", outcome=Outcome.DENIED, reason="no")).leaf(1))
    assert refused["outcome"] == {"decision": "deny", "reason": "no"}
    assert refused["severity"] == "warning"
    assert refused.keys() == {"v", "id", "seq", "time", "type", "severity", "outcome", "actor", "action"}


@pytest.mark.parametrize(
    "value", [1.5, 2**53, b"bytes", AT, {"é": 1}, {1: 1}, [[[[[[[[["deep"]]]]]]]]], {"a": [1.0]}]
)
def test_what_readers_of_json_disagree_on_is_no_part_of_an_event(value):
    with pytest.raises(TypeError, match="in an audit record"):
        encode(a_record(detail={"value": value}))


def test_an_event_is_bounded():
    room = MAX_EVENT - len(encode(a_record(detail={"value": ""})).leaf(2**53))
    assert room > 15_000
    leaf = encode(a_record(detail={"value": "x" * (room - 10)})).leaf(2**53 - 1)
    assert len(leaf) <= MAX_EVENT
    with pytest.raises(InvalidRequestError, match="longer than the 16384 bytes of an event"):
        encode(a_record(detail={"value": "x" * (room + 20)}))


@pytest.mark.parametrize("leaf", [b"", b"[]", b"{}", b"7", b'{"time":1}', b"\xff", b'{"agent":1}'])
def test_what_is_no_event_is_refused(leaf):
    with pytest.raises(ValueError, match=r"."):
        decode(leaf)


FOUND = {
    "by type": (AuditFilter(type="svid.issued"), [1, 3]),
    "by types": (AuditFilter(type="svid."), [1, 2, 3]),
    "by a type that is no pattern": (AuditFilter(type="svi_."), []),
    "by actor": (AuditFilter(actor="alice"), [2]),
    "by subject": (AuditFilter(subject="spiffe://example.org/b"), [3, 4]),
    "by serial": (AuditFilter(credential="7"), [1]),
    "by jti": (AuditFilter(credential="j"), [3]),
    "by hash": (AuditFilter(credential="ff"), [4]),
    "from a time": (AuditFilter(since=AT + timedelta(seconds=2)), [3, 4]),
    "before a time": (AuditFilter(until=AT + timedelta(seconds=2)), [1, 2]),
    "by all of it": (AuditFilter(type="svid.", subject="spiffe://example.org/b", until=AT), []),
}


@pytest.mark.parametrize(("wanted", "numbers"), FOUND.values(), ids=FOUND)
async def test_events_are_found(database, wanted, numbers):
    await database.record(
        a_record(credential=CredentialFacts(kind="x509-svid", serial="7")),
        a_record(at=AT + timedelta(seconds=1), type="svid.refused", actor="alice"),
        a_record(
            at=AT + timedelta(seconds=2),
            subject="spiffe://example.org/b",
            credential=CredentialFacts(kind="jwt-svid", jti="j", sha256="ff"),
        ),
        a_record(
            at=AT + timedelta(seconds=3),
            type="entry.created",
            subject="spiffe://example.org/b",
            credential=CredentialFacts(kind="jwt-svid", sha256="ff"),
        ),
    )
    found = await database.read(lambda tx: tx.audit.leaves(0, 10, wanted))
    assert [number for number, _ in found] == numbers


async def test_what_a_subject_was_given_is_found_while_it_is_valid(database):
    def given(serial, exp, **changes):
        return a_record(credential=CredentialFacts(kind="x509-svid", serial=serial, exp=exp), **changes)

    await database.record(
        given("1", "2026-01-02T03:10:00Z"),
        given("2", "2026-01-02T04:00:00Z"),
        given("3", "2026-01-02T04:00:00Z", subject="spiffe://example.org/b"),
        given("4", "2026-01-02T04:00:00Z", at=AT - timedelta(hours=1)),
        given("5", ""),
        a_record(detail={"credential": {"exp": "2026-01-02T04:00:00Z"}}),
    )

    async def serials(valid_at):
        found = await database.read(
            lambda tx: tx.audit.credentials("spiffe://example.org/a", AT, valid_at=valid_at)
        )
        return [record.credential.serial for record in found]

    assert await serials(AT) == ["1", "2"]
    assert await serials(datetime(2026, 1, 2, 3, 9, 59, 999999, tzinfo=UTC)) == ["1", "2"]
    assert await serials(datetime(2026, 1, 2, 3, 10, tzinfo=UTC)) == ["2"]


async def test_what_nodes_say_of_a_subject_is_not_read_to_find_what_it_was_given(database):
    """A suspension reads this while nobody else may write: a busy node would make taking back slow."""
    said = [
        a_record(type="node.svid_fetched", credential=CredentialFacts(kind="x509-svid", serial=str(number)))
        for number in range(5_000)
    ]
    given = a_record(
        credential=CredentialFacts(kind="x509-svid", serial="a", exp="2026-01-02T04:00:00Z"),
    )
    await database.record(*said, given, *said)
    steps = 0

    def step():
        nonlocal steps
        steps += 1

    def read(tx):
        driver = tx._connection.connection.driver_connection
        driver.set_progress_handler(step, 10)
        try:
            return tx.audit.credentials("spiffe://example.org/a", AT, valid_at=AT)
        finally:
            driver.set_progress_handler(None, 0)

    assert [record.credential.serial for record in await database.read(read)] == ["a"]
    assert steps < 100  # of ten instructions each: each row that is read takes several


async def test_an_event_is_found_by_its_id(database):
    await database.record(a_record(), a_record())
    ((_, leaf), _) = await database.read(lambda tx: tx.audit.leaves(0, 10))
    wanted = AuditFilter(id=json.loads(leaf)["id"])
    assert await database.read(lambda tx: tx.audit.leaves(0, 10, wanted)) == [(1, leaf)]


async def test_what_belongs_to_a_transaction_is_found_without_a_look_at_anything_else(database):
    verified = [a_record(detail={"txn": f"t-{number}"}, type="node.verified") for number in range(2000)]
    await database.record(a_record(detail={"txn": "t-7"}), *verified)
    steps = 0

    def read(tx):
        def step():
            nonlocal steps
            steps += 1
            return 0

        driver = tx._connection.connection.driver_connection
        driver.set_progress_handler(step, 10)
        try:
            return tx.audit.leaves(0, 10, AuditFilter(txn="t-7"))
        finally:
            driver.set_progress_handler(None, 0)

    assert [number for number, _ in await database.read(read)] == [9]
    assert steps < 100  # of ten instructions each: each row that is read takes several


def indexes_of_audit(database):
    with database._engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE tbl_name = 'audit'")
        return {row.name for row in found}


def test_a_database_from_before_an_index_has_it_once_it_is_opened(tmp_path):
    path = tmp_path / "issuer.db"
    database = Database.open(path, clock=FakeClock())
    complete = indexes_of_audit(database)
    with database._engine.begin() as connection:
        for name in LATER:
            connection.exec_driver_sql(f"DROP INDEX {name}")
        connection.exec_driver_sql("ALTER TABLE audit DROP COLUMN txn")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0006'")
    assert indexes_of_audit(database) == complete - LATER
    database.close()
    database = Database.open(path, clock=FakeClock())
    assert indexes_of_audit(database) == complete
    database.close()


def test_records_of_an_older_schema_become_events(tmp_path):
    path = tmp_path / "issuer.db"
    Database.open(path, clock=FakeClock()).close()
    path.unlink()
    engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)))
    with engine.begin() as connection:
        config = _migrations()
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for number, outcome in enumerate(["ok", "denied", "failed"], 1):
            row = (number, 1_700_000_000_000_000 + number, "me", "/a.v1.A/Do", "it", outcome, '{"call":"c"}')
            connection.exec_driver_sql("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    engine.dispose()
    database = Database.open(path, clock=FakeClock())
    with database._engine.begin() as connection:
        found = connection.exec_driver_sql("SELECT sequence, event, type FROM audit ORDER BY sequence").all()
    assert [(number, kind) for number, _, kind in found] == [(1, "a.do"), (2, "a.do"), (3, "a.do")]
    assert [decode(leaf).outcome for _, leaf, _ in found] == list(Outcome)
    assert json.loads(found[0][1])["detail"] == {"call": "c"}
    assert indexes_of_audit(database) >= LATER
    with pytest.raises(sa.exc.IntegrityError, match="append-only"), database._engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM audit")
    database.close()

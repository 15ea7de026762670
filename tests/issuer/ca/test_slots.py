# SPDX-License-Identifier: Apache-2.0
"""Authorities go prepared → active → old, one at a time, at the fractions of their life that SPIRE uses."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from issuer.ca.slots import Slots, should_activate, should_prepare
from issuer.errors import FailedPreconditionError, NotFoundError
from issuer.model import AuthorityKind, AuthorityRecord, AuthorityState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PREPARED, ACTIVE, OLD = AuthorityState.PREPARED, AuthorityState.ACTIVE, AuthorityState.OLD


def record(authority_id="a", state=PREPARED, *, issued_at=NOW, life=DAY, tainted=False):
    return AuthorityRecord(
        id=authority_id,
        kind=AuthorityKind.JWT,
        state=state,
        key_id=f"key-{authority_id}",
        issued_at=issued_at,
        not_after=issued_at + life,
        tainted=tainted,
    )


INDEX = st.integers(0, 4)


class SlotMachine(RuleBasedStateMachine):
    """Any order of what operators and the rotation do; a refused step changes nothing."""

    grace = timedelta(hours=2)

    @initialize()
    def start(self):
        self.slots, self.now, self.made = Slots(), NOW, 0
        self.seen = {}

    def some_id(self, index):
        records = self.slots.records
        return records[index].id if index < len(records) else "unknown"

    @rule(life=st.timedeltas(timedelta(seconds=1), DAY))
    def prepare(self, life):
        self.made += 1
        # Whatever state the new record claims, it is prepared.
        new = record(f"authority-{self.made}", ACTIVE, issued_at=self.now, life=life)
        before = self.slots
        self.slots = before.with_prepared(new)
        assert self.slots.prepared == replace(new, state=PREPARED)
        assert self.slots.active == before.active
        assert self.slots.old == before.old

    @rule(index=INDEX)
    def activate(self, index):
        authority_id, before = self.some_id(index), self.slots
        if before.prepared is None or before.prepared.id != authority_id:
            with pytest.raises((FailedPreconditionError, NotFoundError)):
                before.activate(authority_id)
            return
        self.slots = before.activate(authority_id)
        assert self.slots.active.id == authority_id
        assert self.slots.prepared is None
        retired = {before.active.id} if before.active else set()
        assert {r.id for r in self.slots.old} == {r.id for r in before.old} | retired

    @rule(index=INDEX)
    def taint(self, index):
        authority_id, before = self.some_id(index), self.slots
        if authority_id not in {r.id for r in before.old}:
            with pytest.raises((FailedPreconditionError, NotFoundError)):
                before.taint(authority_id)
            return
        self.slots = before.taint(authority_id)
        assert self.slots.find(authority_id) == replace(before.find(authority_id), tainted=True)
        assert {r.id for r in self.slots.records} == {r.id for r in before.records}

    @rule(index=INDEX)
    def revoke(self, index):
        authority_id, before = self.some_id(index), self.slots
        if authority_id not in {r.id for r in before.old if r.tainted}:
            with pytest.raises((FailedPreconditionError, NotFoundError)):
                before.revoke(authority_id)
            return
        self.slots = before.revoke(authority_id)
        assert {r.id for r in before.records} - {r.id for r in self.slots.records} == {authority_id}

    @rule(passed=st.timedeltas(-HOUR, DAY))
    def prune(self, passed):
        self.now += passed
        before = self.slots
        self.slots = before.without_expired(self.now, self.grace)
        for gone in set(before.records) - set(self.slots.records):
            assert gone.state is OLD
            assert self.now >= gone.not_after + self.grace
        for kept in self.slots.old:
            assert self.now < kept.not_after + self.grace

    @rule(shuffled=st.randoms(use_true_random=False))
    def restart(self, shuffled):
        records = list(self.slots.records)
        shuffled.shuffle(records)
        again = Slots.of(records)
        assert set(again.records) == set(self.slots.records)
        self.slots = again

    @invariant()
    def at_most_one_of_each(self):
        for state in (ACTIVE, PREPARED):
            assert sum(1 for r in self.slots.records if r.state is state) <= 1
        assert len({r.id for r in self.slots.records}) == len(self.slots.records)

    @invariant()
    def nothing_goes_back(self):
        order = [PREPARED, ACTIVE, OLD]
        for r in self.slots.records:
            before = self.seen.get(r.id, PREPARED)
            assert order.index(r.state) >= order.index(before)
            self.seen[r.id] = r.state

    @invariant()
    def who_has_signed_is_never_lost_but_by_revocation_or_age(self):
        if ACTIVE in self.seen.values():
            assert self.slots.active is not None


TestSlotMachine = SlotMachine.TestCase
TestSlotMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize(
    ("life", "prepare_after", "activate_after"),
    [
        (timedelta(seconds=60), timedelta(seconds=30), timedelta(seconds=50)),
        (HOUR, timedelta(minutes=30), timedelta(minutes=50)),
        (24 * HOUR, 12 * HOUR, 20 * HOUR),
        (42 * DAY, 21 * DAY, 35 * DAY),  # the last life at which both are fractions
        (60 * DAY, 30 * DAY, 53 * DAY),
        (365 * DAY, 335 * DAY, 358 * DAY),
    ],
    ids=["1 min", "1 h", "1 d", "42 d", "60 d", "1 y"],
)
def test_the_next_one_is_prepared_at_half_and_takes_over_at_five_sixths(life, prepare_after, activate_after):
    """As SPIRE does: half of the life or 30 days before the end, a sixth or 7 days."""
    active = record(state=ACTIVE, life=life)
    instant = timedelta(microseconds=1)
    assert not should_prepare(active, NOW + prepare_after - instant)
    assert should_prepare(active, NOW + prepare_after)
    assert not should_activate(active, NOW + activate_after - instant)
    assert should_activate(active, NOW + activate_after)
    assert should_prepare(active, NOW + 2 * life)
    assert should_activate(active, NOW + 2 * life)


@pytest.mark.parametrize(("early", "due"), [(timedelta(seconds=10), False), (timedelta(seconds=11), True)])
def test_a_certificate_made_while_the_clock_was_ahead_is_replaced_soon(early, due):
    """The authority of a machine whose clock was corrected is not valid yet, for anybody; a key always is."""
    key = record(state=ACTIVE)
    certificate = replace(key, kind=AuthorityKind.X509)
    for decide in (should_prepare, should_activate):
        assert decide(certificate, NOW - early) is due
        assert not decide(key, NOW - early)


@pytest.mark.parametrize(
    ("act", "target", "error", "message"),
    [
        ("activate", "active", FailedPreconditionError, "authority active is not prepared"),
        ("activate", "old", FailedPreconditionError, "authority old is not prepared"),
        ("activate", "nobody", NotFoundError, "no authority 'nobody'"),
        (
            "taint", "active", FailedPreconditionError,
            "authority active is active: only an old one can be tainted",
        ),
        (
            "taint", "prepared", FailedPreconditionError,
            "authority prepared is prepared: only an old one can be tainted",
        ),
        ("taint", "x" * 200, NotFoundError, f"no authority '{'x' * 80}'"),
        ("revoke", "old", FailedPreconditionError, "authority old is not tainted"),
        ("revoke", "active", FailedPreconditionError, "authority active is not tainted"),
        ("revoke", "nobody", NotFoundError, "no authority 'nobody'"),
    ],
)  # fmt: skip
def test_what_would_break_the_trust_of_others_is_refused(act, target, error, message):
    slots = Slots((record("old", OLD), record("active", ACTIVE), record("prepared", PREPARED)))
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(slots, act)(target)


def test_of_several_active_ones_in_a_journal_the_newest_signs():
    first, second, third = (record(f"a{i}", ACTIVE, issued_at=NOW + i * HOUR) for i in range(3))
    slots = Slots.of([third, first, second])
    assert slots.active == third
    assert slots.old == (replace(first, state=OLD), replace(second, state=OLD))


def test_of_several_prepared_ones_in_a_journal_the_newest_comes_next():
    first, second = (record(f"a{i}", PREPARED, issued_at=NOW + i * HOUR) for i in range(2))
    slots = Slots.of([second, first])
    assert slots.prepared == second
    assert slots.old == (replace(first, state=OLD),)


def test_a_tainted_authority_can_be_withdrawn():
    slots = Slots((record("old", OLD), record("active", ACTIVE))).taint("old")
    assert slots.revoke("old") == Slots((record("active", ACTIVE),))


def test_an_empty_journal_has_nothing():
    slots = Slots.of([])
    assert (slots.active, slots.prepared, slots.old) == (None, None, ())


def test_prepared_and_active_authorities_are_never_pruned():
    ancient = NOW - 1000 * DAY
    slots = Slots((record("a", ACTIVE, issued_at=ancient), record("p", PREPARED, issued_at=ancient)))
    assert slots.without_expired(NOW, timedelta(0)) == slots

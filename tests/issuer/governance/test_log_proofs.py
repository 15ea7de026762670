# SPDX-License-Identifier: Apache-2.0
"""What stands in the log is judged, not only its hashes."""

import pytest

from issuer.governance.log_proofs import EventCheck, check_event
from spiffekit.errors import LogFormatError, LogMismatchError
from spiffekit.transparency.notes import Checkpoint
from tests.spiffekit.transparency.logs import mth

EVENTS = [b'{"seq":%d}' % number for number in range(1, 8)]


def head(size, root=None):
    return Checkpoint("o", size, root or mth(EVENTS[:size]))


@pytest.mark.parametrize("entry", [b"", b"\xff", b"7", b"[]", b"{}", b'"seq"', b"[" * 50_000])
def test_what_is_no_event_is_refused(entry):
    with pytest.raises(LogFormatError, match=r"^entry 4 of the log is no event$"):
        check_event(4, entry)


@pytest.mark.parametrize("number", ["4", "6", '"5"', "null", "5.5"])
def test_an_event_in_another_place_than_its_own_is_refused(number):
    with pytest.raises(LogMismatchError, match=r"^entry 4 of the log is event "):
        check_event(4, b'{"seq":%s}' % number.encode())
    check_event(4, b'{"seq":5}')


@pytest.mark.parametrize("earlier", [None, head(0), head(3), head(7)])
def test_events_are_those_of_the_checkpoint(earlier):
    check = EventCheck(head(7), earlier)
    for event in EVENTS:
        check.add(event)
    check.finish()


@pytest.mark.parametrize(
    ("given", "events", "message"),
    [
        (
            (head(7), head(3, b"r" * 32)),
            EVENTS,
            "the first 3 entries are not those of the earlier checkpoint",
        ),
        ((head(3), head(7)), EVENTS, "the log has 3 entries, and had 7 before"),
        ((head(7),), EVENTS[:6], "there are 6 of 7 events"),
        ((head(7, b"r" * 32),), EVENTS, "the 7 events do not hash to the root of the checkpoint"),
        ((head(7),), EVENTS[:2] + EVENTS[3:], "entry 2 of the log is event 4"),
    ],
)
def test_events_of_something_else_are_refused(given, events, message):
    def check():
        made = EventCheck(*given)
        for event in events:
            made.add(event)
        made.finish()

    with pytest.raises(LogMismatchError, match=f"^{message}$"):
        check()

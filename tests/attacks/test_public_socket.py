# SPDX-License-Identifier: Apache-2.0
"""A hostile client on the socket that is open to all: memory stays, and others are served as before."""

import contextlib
import os
import time

import pytest

from tests.attacks import hostile
from tests.attacks.conftest import ATTEMPTS, MAX_P99
from tests.attacks.hostile import END_HEADERS, HEADERS, GoodClient, block, connect, frame, open_http2

# No frame of these is wrong as such: what bounds calls and messages holds them.
HELD_BACK = {"resets", "huge_message", "huge_messages", "unread_answers", "zero_windows"}


@pytest.mark.parametrize("flood", [flood.__name__ for flood in hostile.FLOODS])
def test_a_flood_neither_fills_memory_nor_holds_up_others(victim, flood):
    """The hostile client comes back whenever it is cut off. HPACK bombs are of the kind of CVE-2021-44716."""
    cut_off = int(victim.endure(flood))
    if flood not in HELD_BACK:
        assert cut_off > 0


@pytest.mark.parametrize("flood", ["resets", "huge_message"])
def test_a_flood_that_reads_its_answers_does_no_more(victim, flood):
    victim.endure(flood, "reads")


def test_a_message_that_announces_a_gibibyte_is_refused_before_it_comes(victim):
    with contextlib.closing(open_http2(victim.path)) as connection:
        connection.sendall(
            frame(HEADERS, block("Echo"), END_HEADERS, 1)
            + frame(hostile.DATA, b"\0" + (2**30).to_bytes(4), 0, 1)
        )
        answer = b""
        while b"grpc-status" not in answer:
            answer += connection.recv(65536)
        assert b"larger than max" in answer


@pytest.mark.parametrize("opening", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\0\xff"])
def test_whoever_does_not_speak_http2_is_cut_off_at_once(victim, opening):
    def cut_off():
        with contextlib.closing(connect(victim.path)) as connection:
            connection.sendall(opening)
            return closed_within(connection, 1)

    assert any(cut_off() for _ in range(ATTEMPTS))


def test_silent_connections_are_closed_in_three_seconds(victim):
    for _ in range(ATTEMPTS):
        with victim.beside() as seen:
            start = time.monotonic()
            silent = [connect(victim.path) for _ in range(200)]
            # gRPC's own greeting may come; what counts is the end.
            ended = [closed_within(connection, start + 4 - time.monotonic()) for connection in silent]
            assert time.monotonic() - start > 2.5
            close(silent)
        if all(ended) and seen.p99 < MAX_P99:
            break
    assert all(ended)
    seen.check()


def closed_within(connection, seconds):
    until = time.monotonic() + seconds
    with contextlib.suppress(TimeoutError):
        while (left := until - time.monotonic()) > 0:
            connection.settimeout(left)
            try:
                if not connection.recv(65536):
                    return True
            except ConnectionResetError:
                return True
    return False


def close(connections):
    for connection in connections:
        connection.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")
def test_one_user_cannot_take_all_descriptors(start_victim):
    victim = start_victim(descriptors=600)  # carries 86 connections
    hoarded = []
    with as_user(12345):
        for _ in range(200):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                hoarded.append(open_http2(victim.path))
    kept = [connection for connection in hoarded if not closed_within(connection, 0.01)]
    assert 30 < len(kept) <= 43
    assert victim.descriptors < 600
    with GoodClient(victim.path) as client:
        assert client.call() == "0"
    close(hoarded)
    with as_user(12345):  # and what was given back can be had again
        again = GoodClient(victim.path)
    with again:
        assert again.call() == "0"


@contextlib.contextmanager
def as_user(uid):
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("attack", ["deaths", "hang_ups"])
def test_connecting_and_dying_leaves_no_descriptors(victim, attack):
    """SPI-01-006: descriptors of processes that had exited when they were looked at were never closed."""
    before = victim.descriptors
    victim.endure(attack)
    assert settles(lambda: victim.descriptors <= before)


def settles(condition):
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True

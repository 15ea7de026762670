# SPDX-License-Identifier: Apache-2.0
"""What systemd is told arrives as one datagram, and nothing happens without it."""

import os
import socket

import pytest

from spiffekit.daemon.systemd import notify


@pytest.fixture
def systemd(folder):
    path = folder / f"notify-{os.urandom(4).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(path))
        receiver.settimeout(5)
        yield receiver, str(path)


def test_a_state_arrives_at_the_socket_that_systemd_named(systemd, monkeypatch):
    receiver, path = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notify("READY=1")
    notify("STOPPING=1")
    assert [receiver.recv(100), receiver.recv(100)] == [b"READY=1", b"STOPPING=1"]


def test_an_address_given_goes_before_the_environment(systemd, monkeypatch):
    receiver, path = systemd
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    notify("READY=1", path)
    assert receiver.recv(100) == b"READY=1"


def test_an_abstract_address_begins_with_an_at_sign():
    name = f"sa-test-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(5)
        notify("READY=1", f"@{name}")
        assert receiver.recv(100) == b"READY=1"


@pytest.mark.parametrize("value", [None, ""])
def test_outside_systemd_nothing_is_sent(monkeypatch, value):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if value is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    notify("READY=1")


def test_a_systemd_that_is_gone_does_not_stop_a_daemon(monkeypatch, folder):
    monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "gone"))
    notify("READY=1")
    notify("READY=1", str(folder / ("x" * 200)))  # longer than any address can be

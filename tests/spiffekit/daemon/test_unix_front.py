# SPDX-License-Identifier: Apache-2.0
"""The public listener: each call is known by the process behind its connection, and by nothing else."""

import asyncio
import contextlib
import errno
import os
import resource
import socket
import stat
import sys
import time
from datetime import timedelta

import grpc
import pytest

from spiffekit.daemon import listener
from spiffekit.daemon.listener import (
    FD_PER_CONNECTION,
    FD_RESERVE,
    Limits,
    UnixFront,
    UnknownPeerError,
)
from spiffekit.daemon.peer import PeerUnknownError
from tests.spiffekit.daemon.fronts import serving

WHO = "/Test/Who"


@pytest.fixture
def path(folder):
    return folder / f"front-{os.urandom(4).hex()}.sock"


def front_at(path, identify=lambda process: (process.pid, process.uid), **options):
    return UnixFront(path, mode=0o777, identify=identify, **options)


def served(front):
    return serving(front, lambda peer: repr(peer).encode())


async def ask(target, message=b""):
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(target, options=options) as channel:
        return (await channel.unary_unary(WHO)(message, timeout=5)).decode()


ASK = """
import grpc, sys
with grpc.insecure_channel(sys.argv[1]) as channel:
    print(channel.unary_unary("/Test/Who")(b"", timeout=5).decode())
"""


async def test_callers_are_told_apart(path):
    async with served(front_at(path)):
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", ASK, f"unix:{path}", stdout=asyncio.subprocess.PIPE
        )
        ours, (out, _) = await asyncio.gather(ask(f"unix:{path}"), child.communicate())
        assert ours == repr((os.getpid(), os.geteuid()))
        assert out.decode().strip() == repr((child.pid, os.geteuid()))


async def test_a_call_round_the_listener_is_nobodys(path):
    """The inner socket takes us in, as its folder lets us; yet there is no peer of that name."""
    async with served(front_at(path)) as inner:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(f"unix:{inner}")
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert caught.value.details() == "caller cannot be identified"


async def test_a_name_that_looks_like_ours_is_nobodys(path):
    front = front_at(path)
    async with served(front):

        class Context:
            def peer(self):
                return "unix-abstract:sa-00000000000000000000000000000000"

        with pytest.raises(UnknownPeerError, match="caller cannot be identified"):
            front.peer_of(Context())


async def test_others_cannot_reach_the_inner_socket(path):
    async with served(front_at(path)) as inner:
        assert stat.S_IMODE(inner.parent.stat().st_mode) == 0o700
        if os.geteuid() == 0:
            with socket.socket(socket.AF_UNIX) as intruder:
                os.seteuid(12345)
                try:
                    with pytest.raises(PermissionError):
                        intruder.connect(str(inner))
                finally:
                    os.seteuid(0)
    assert not inner.parent.exists()


async def test_a_peer_is_forgotten_with_its_connection(path):
    front = front_at(path)
    async with served(front):
        await ask(f"unix:{path}")
        async with asyncio.timeout(5):
            while front.connections or front._peers:
                await asyncio.sleep(0.001)


async def test_who_cannot_be_identified_is_cut_off(path):
    def identify(_process):
        raise PeerUnknownError("nobody")

    async with served(front_at(path, identify)):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(f"unix:{path}")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_connections_beyond_the_share_of_a_user_are_closed_and_the_rest_is_served(path):
    limits = Limits(max_connections=100, max_connections_per_source=2)
    async with served(front_at(path, limits=limits)):
        kept = [await asyncio.open_unix_connection(path) for _ in range(2)]
        for _, writer in kept:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        await asyncio.wait_for(kept[0][0].read(9), 5)
        await asyncio.wait_for(kept[1][0].read(9), 5)
        reader, writer = await asyncio.open_unix_connection(path)
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        for _, writer in kept:
            writer.close()
        async with asyncio.timeout(5):
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    assert await ask(f"unix:{path}")
                    break


async def test_connections_that_come_too_fast_wait_until_it_is_their_turn(path):
    front = front_at(path, limits=Limits(calls_at_once=10, calls_per_second=1000))
    allowance = front._calls.of((os.geteuid(), os.getpid()))
    allowance._clock = lambda: allowance._last  # time stands still
    allowance.spend(20)
    async with served(front):
        asking = asyncio.create_task(ask(f"unix:{path}"))
        async with asyncio.timeout(5):
            while not front.connections:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)  # the debt is one of 10 ms, if time went on
        assert not front._peers
        allowance._clock = time.monotonic
        assert await asking


async def test_no_more_connections_are_allowed_than_descriptors_carry(path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    front = front_at(path, limits=Limits(max_connections=10**9, max_connections_per_source=10**9))
    limits = front._limits
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == hard
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits.max_connections * FD_PER_CONNECTION + FD_RESERVE <= soft
    assert limits.max_connections_per_source <= limits.max_connections // 2


async def test_who_says_nothing_is_cut_off(path):
    limits = Limits(first_byte_within=timedelta(milliseconds=50))
    async with served(front_at(path, limits=limits)):
        reader, writer = await asyncio.open_unix_connection(path)
        await asyncio.wait_for(reader.read(), 5)
        writer.close()


async def test_who_speaks_in_time_stays(path):
    limits = Limits(first_byte_within=timedelta(milliseconds=20))
    async with served(front_at(path, limits=limits)):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")  # before it is accepted
            reader, writer = await asyncio.open_unix_connection(sock=connection.dup())
        await asyncio.wait_for(reader.readexactly(9), 5)
        await asyncio.sleep(0.06)
        writer.write(b"\0\0\x08\6\0\0\0\0\0abcdefgh")
        answer = b""
        while b"abcdefgh" not in answer:
            answer += await asyncio.wait_for(reader.read(1000), 5)
        writer.close()


@pytest.mark.parametrize("mode", [0o777, 0o600, 0o660])
async def test_the_socket_has_its_mode_from_the_first_moment_and_goes_with_the_daemon(path, mode):
    async with served(UnixFront(path, mode=mode, identify=lambda p: p)):
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert [p.name for p in path.parent.iterdir() if p.name.startswith(".")] == []
    assert not path.exists()


async def test_a_socket_left_behind_is_replaced(path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with served(front_at(path)):
        assert await ask(f"unix:{path}")


async def test_a_daemon_that_listens_there_is_not_pushed_aside(path):
    async with served(front_at(path)):
        with pytest.raises(FileExistsError, match=f"somebody already listens at {path}"):
            async with front_at(path).open(path):
                pass
        assert await ask(f"unix:{path}")


async def test_a_file_in_the_way_is_not_removed(path):
    path.write_text("precious")
    with pytest.raises(FileExistsError, match=f"{path} exists and is not a socket"):
        async with front_at(path).open(path):
            pass
    assert path.read_text() == "precious"


async def test_a_successors_socket_is_left_alone(path):
    """A daemon that ends late must not remove the socket of the one that replaced it."""
    async with served(front_at(path)):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
            mine = path.stat().st_ino
    assert path.stat().st_ino == mine


async def test_a_socket_that_somebody_removed_is_no_error_at_the_end(path):
    async with served(front_at(path)):
        path.unlink()


async def test_a_folder_that_is_missing_is_named(path):
    missing = path.parent / "missing" / "api.sock"
    with pytest.raises(FileNotFoundError):
        async with front_at(missing).open(path):
            pass


async def test_a_server_that_is_gone_closes_the_connection_and_keeps_no_peer(path):
    front = front_at(path)
    async with front.open(path.parent / "nobody-listens"):
        reader, writer = await asyncio.open_unix_connection(path)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    assert front._peers == {}
    assert front.connections == 0


async def test_ending_closes_what_is_open(path):
    front = front_at(path)
    async with served(front):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0")
        await asyncio.wait_for(reader.readexactly(9), 5)
    with contextlib.suppress(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert front.connections == 0


class Flaky(socket.socket):
    errors = ()

    def accept(self):
        if self.errors:
            number, *self.errors = self.errors
            raise OSError(number, os.strerror(number))
        return super().accept()


class FlakyFront(UnixFront):
    def _listen(self):
        flaky = Flaky(fileno=super()._listen().detach())
        flaky.setblocking(False)
        flaky.errors = (errno.EMFILE, errno.ECONNABORTED)
        return flaky


async def test_a_connection_that_cannot_be_accepted_does_not_end_the_listener(path, monkeypatch, caplog):
    """Without descriptors, or when the connection itself failed; one error must not silence us for good."""
    monkeypatch.setattr(listener, "ACCEPT_PAUSE", 0.001)
    async with served(FlakyFront(path, mode=0o777, identify=lambda process: process.pid)):
        assert await ask(f"unix:{path}") == str(os.getpid())
    reasons = [record.reason for record in caplog.records if record.message == "connection not accepted"]
    assert reasons == ["Too many open files", "Software caused connection abort"]


async def test_hostile_clients_cannot_fill_the_log(path, caplog):
    caplog.set_level("DEBUG")
    async with served(front_at(path)):
        for _ in range(30):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), 5)
            writer.close()
    closed = [record for record in caplog.records if record.message == "connection closed"]
    assert {record.reason for record in closed} == {"not an HTTP/2 client"}
    assert len(closed) == 30
    assert 10 <= sum(record.levelname == "WARNING" for record in closed) <= 12

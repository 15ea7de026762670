# SPDX-License-Identifier: Apache-2.0
"""A FUSE mount with one file, whose server answers, or never does, and may show another content later."""

import contextlib
import ctypes
import os
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field

import pytest

NAME, CONTENT = "file", b"print('whatever I like')\n"
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, BATCH_FORGET = (
    1, 2, 3, 14, 15, 17, 18, 25, 26, 42,
)  # fmt: skip
ENOSYS = 38
DETACH = 2
DIRECT = 1  # whoever opens it so reads from the server, and nothing that was read before


@dataclass
class Server:
    """Shows the first who opens the file the first content, and so on; those after the last see the last."""

    contents: tuple = (CONTENT,)  # of one length
    opened: int = 0
    asked: Counter = field(default_factory=Counter)  # how often, by kind of request


@contextlib.contextmanager
def mounted(path, *, answers, contents=(CONTENT,)):
    """Mount at `path`; without `answers` whoever looks below hangs until the mount is taken away."""
    server = Server(contents)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE: {error.strerror}")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"test", os.fsencode(path), b"fuse", 0, options):
        os.close(device)
        pytest.skip(f"FUSE cannot be mounted: {os.strerror(ctypes.get_errno())}")
    thread = threading.Thread(target=_serve, args=(device, server))
    if answers:
        thread.start()
    try:
        yield server
    finally:
        libc.umount2(os.fsencode(path), DETACH)
        if answers:
            thread.join(5)
        os.close(device)


def _serve(device, server):
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # it is unmounted
            return
        opcode, unique, node = struct.unpack_from("<IQQ", request, 4)
        if opcode in (FORGET, BATCH_FORGET):
            continue
        server.asked[opcode] += 1
        answer = _answer(server, opcode, node, request[40:])
        error = 0 if answer is not None else -ENOSYS
        body = answer or b""
        with contextlib.suppress(OSError):
            os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def _answer(server, opcode, node, arguments):
    match opcode:
        case _ if opcode == INIT:
            return struct.pack("<IIIIHHIIHH32x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0)
        case _ if opcode == LOOKUP:
            return struct.pack("<QQQQII", 2, 0, 0, 0, 0, 0) + _attributes(server, 2)
        case _ if opcode == GETATTR:
            return struct.pack("<QII", 0, 0, 0) + _attributes(server, node)
        case _ if opcode == STATFS:
            return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        case _ if opcode == OPEN:
            seen = min(server.opened, len(server.contents) - 1)
            server.opened += 1
            return struct.pack("<QII", seen, DIRECT if seen else 0, 0)
        case _ if opcode == READ:
            seen, offset, size = struct.unpack_from("<QQI", arguments)
            return server.contents[seen][offset : offset + size]
        case _ if opcode in (FLUSH, RELEASE):
            return b""
    return None


def _attributes(server, node):
    mode = 0o040755 if node == 1 else 0o100755
    return struct.pack(
        "<6Q10I", node, len(server.contents[0]), 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0
    )

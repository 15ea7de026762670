# SPDX-License-Identifier: Apache-2.0
"""A FUSE mount with one file, whose server answers, or never does."""

import contextlib
import ctypes
import os
import struct
import threading

import pytest

NAME, CONTENT = "file", b"print('whatever I like')\n"
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT, BATCH_FORGET = (
    1, 2, 3, 14, 15, 17, 18, 25, 26, 42,
)  # fmt: skip
ENOSYS = 38
DETACH = 2


@contextlib.contextmanager
def mounted(path, *, answers):
    """Mount at `path`; without `answers` whoever looks below hangs until the mount is taken away."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
    except OSError as error:
        pytest.skip(f"no FUSE: {error.strerror}")
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
    if libc.mount(b"test", os.fsencode(path), b"fuse", 0, options):
        os.close(device)
        pytest.skip(f"FUSE cannot be mounted: {os.strerror(ctypes.get_errno())}")
    thread = threading.Thread(target=_serve, args=(device,))
    if answers:
        thread.start()
    try:
        yield path
    finally:
        libc.umount2(os.fsencode(path), DETACH)
        if answers:
            thread.join(5)
        os.close(device)


def _serve(device):
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # it is unmounted
            return
        opcode, unique, node = struct.unpack_from("<IQQ", request, 4)
        if opcode in (FORGET, BATCH_FORGET):
            continue
        answer = _answer(opcode, node)
        error = 0 if answer is not None else -ENOSYS
        body = answer or b""
        with contextlib.suppress(OSError):
            os.write(device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)


def _answer(opcode, node):
    match opcode:
        case _ if opcode == INIT:
            return struct.pack("<IIIIHHIIHH32x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0)
        case _ if opcode == LOOKUP:
            return struct.pack("<QQQQII", 2, 0, 1, 1, 0, 0) + _attributes(2)
        case _ if opcode == GETATTR:
            return struct.pack("<QII", 1, 0, 0) + _attributes(node)
        case _ if opcode == STATFS:
            return struct.pack("<5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0)
        case _ if opcode == OPEN:
            return struct.pack("<QII", 0, 0, 0)
        case _ if opcode == READ:
            return CONTENT
        case _ if opcode in (FLUSH, RELEASE):
            return b""
    return None


def _attributes(node):
    mode = 0o040755 if node == 1 else 0o100644
    return struct.pack("<6Q10I", node, len(CONTENT), 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

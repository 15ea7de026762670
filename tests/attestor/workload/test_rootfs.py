# SPDX-License-Identifier: Apache-2.0
"""Files below the root of a process: where links lead, and what is no file."""

import hashlib
import os
import socket
from pathlib import Path

import pytest

from attestor.workload.rootfs import File, Root, held
from tests.attestor.workload.processes import process
from tests.fakes.fuse import CONTENT, NAME, mounted

LIMIT = 100_000
TEXT = b"print('hello')\n"


@pytest.fixture
def inside(tmp_path):
    """A folder that is the root; outside of it there is a secret."""
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root").mkdir()
    (tmp_path / "root/script").write_bytes(TEXT)
    return tmp_path / "root"


@pytest.fixture
def root(inside):
    fd = os.open(inside, os.O_PATH)
    yield Root(fd, LIMIT)
    os.close(fd)


def test_a_file_is_named_by_inode_and_hash(inside, root):
    info = (inside / "script").stat()
    wanted = File(info.st_dev, info.st_ino, hashlib.sha256(TEXT).hexdigest())
    assert root.file("/script") == wanted
    (inside / "link").symlink_to("/script")
    assert root.file("/link") == wanted, "an absolute link is one of this root"
    assert root.file("/../../script") == wanted, "above the root is the root"


@pytest.mark.parametrize(
    "target", ["../secret", "/secret", "../../../../etc/passwd", "/proc/self/root/etc/passwd"]
)
def test_a_link_does_not_lead_out(inside, root, target):
    (inside / "link").symlink_to(target)
    assert root.file("/link") is None


def test_a_link_of_the_kernel_is_not_followed():
    fd = os.open("/", os.O_PATH)
    try:
        assert Root(fd, LIMIT).file("/proc/self/exe") is None
        assert Root(fd, LIMIT).file("/etc/passwd") is not None
    finally:
        os.close(fd)


def test_what_is_no_file_is_not_opened(inside, root):
    os.mkfifo(inside / "pipe")  # to open it would wait for a writer
    (inside / "folder").mkdir()
    here = socket.socket(socket.AF_UNIX)
    folder = os.open(inside, os.O_PATH)
    here.bind(f"/proc/self/fd/{folder}/socket")
    assert [root.file(f"/{name}") for name in ("pipe", "folder", "socket", "missing")] == [None] * 4
    here.close()
    os.close(folder)


@pytest.mark.parametrize("path", ["/a\0b", "/\ud800", "/" + "x" * 5000, ""])
def test_what_is_no_path_is_no_file(root, path):
    assert root.file(path) is None


def test_a_file_of_exactly_the_limit_is_read_and_a_larger_one_is_not(inside, root):
    (inside / "large").write_bytes(bytes(LIMIT))
    assert root.file("/large").sha256 == hashlib.sha256(bytes(LIMIT)).hexdigest()
    os.truncate(inside / "large", LIMIT + 1)
    assert root.file("/large") is None
    os.truncate(inside / "large", 1 << 40)
    assert root.file("/large") is None


def test_a_file_of_unknown_size_is_read_up_to_the_limit(root):
    """Like /proc/kmsg or a file that grows: the size that it says it has does not count."""
    fd = os.open("/", os.O_PATH)
    try:
        assert Root(fd, 10).file("/proc/kallsyms") is None
        assert Root(fd, 10).file("/proc/version") is None
    finally:
        os.close(fd)


def test_a_file_that_changes_meanwhile_is_none(inside):
    class Changing(Root):
        def _digest(self, fd):
            (inside / "script").write_bytes(b"something else")
            return super()._digest(fd)

    fd = os.open(inside, os.O_PATH)
    assert Changing(fd, LIMIT).file("/script") is None
    os.close(fd)


def test_the_root_is_that_of_the_process():
    with process("sleep", "60") as one, Root.of(one, LIMIT) as root:
        assert root.file("/etc/passwd").sha256 == hashlib.sha256(Path("/etc/passwd").read_bytes()).hexdigest()


def test_a_file_of_a_fuse_mount_is_none(tmp_path):
    fd = os.open("/", os.O_PATH)
    try:
        with mounted(tmp_path, answers=True):
            assert (tmp_path / NAME).read_bytes() == CONTENT
            assert Root(fd, LIMIT).file(f"{tmp_path}/{NAME}") is None
    finally:
        os.close(fd)


def test_an_open_or_mapped_file_is_found_by_its_own_name(inside, root):
    with (inside / "script").open() as open_file, process("sleep", "60", stdin=open_file) as one:
        assert held(one, root.file("/script")) == str(inside / "script")
        (inside / "script").rename(inside / "moved")
        assert held(one, root.file("/moved")) == str(inside / "moved")
        (inside / "script").write_bytes(TEXT)
        assert held(one, root.file("/script")) == ""
    fd = os.open("/", os.O_PATH)
    with process("sleep", "60") as one:
        program = os.path.realpath(f"/proc/{one.pid}/exe")
        assert held(one, Root(fd, 1 << 30).file(program)) == program
    os.close(fd)

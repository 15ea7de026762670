# SPDX-License-Identifier: Apache-2.0
"""Which kind of file system a file is on."""

import os
import tempfile

import pytest

from attestor.workload.file_systems import FUSE, LOCAL, kind
from tests.fakes.fuse import NAME, mounted

PROC = 0x9FA0


def test_a_file_in_memory_is_local():
    fd = os.memfd_create("x")
    assert kind(fd) in LOCAL
    os.close(fd)


def test_a_file_of_this_project_is_local():
    with tempfile.TemporaryFile() as file:
        assert kind(file.fileno()) in LOCAL


def test_a_file_of_fuse_is_not(tmp_path):
    with mounted(tmp_path, answers=True), open(tmp_path / NAME, "rb") as file:
        assert kind(file.fileno()) == FUSE
    assert FUSE not in LOCAL


def test_what_is_neither_is_told_as_it_is():
    with open("/proc/version") as file:
        assert kind(file.fileno()) == PROC
    assert PROC not in LOCAL


def test_a_descriptor_that_is_closed_has_none():
    fd = os.memfd_create("x")
    os.close(fd)
    with pytest.raises(OSError, match="has no file system"):
        kind(fd)

# SPDX-License-Identifier: Apache-2.0
"""Who made the user namespace that a process is in."""

import os

import pytest

from attestor.errors import WorkloadAttestationError
from attestor.workload import user_namespaces
from attestor.workload.user_namespaces import made_by
from tests.attestor.workload.namespaces import in_namespace
from tests.attestor.workload.processes import held, process, running

ALICE, BOB = 4711, 4712

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="other users' processes need root")


def test_a_namespace_is_of_the_user_that_made_it():
    with in_namespace(ALICE) as one:
        assert made_by(one, ALICE)
        assert not made_by(one, BOB)


def test_a_namespace_in_it_is_of_that_user_too():
    """The inner one was made by another of the mapped users."""
    with in_namespace(ALICE, nested=True) as one:
        assert made_by(one, ALICE)
        assert made_by(one, 700000)
        assert not made_by(one, BOB)


def test_a_process_in_our_own_namespace_is_in_none_of_a_user():
    with process("sleep", "60") as one:
        assert not made_by(one, ALICE)


def test_it_is_looked_for_no_deeper_than_the_kernel_nests(monkeypatch):
    monkeypatch.setattr(user_namespaces, "MAX_DEPTH", 0)
    with in_namespace(ALICE) as one:
        assert not made_by(one, ALICE)


def test_a_process_that_is_gone_has_none():
    with running("sleep", "60") as child, held(child.pid) as one:
        child.kill()
        child.wait(5)
        with pytest.raises(WorkloadAttestationError, match="user namespace cannot be read"):
            made_by(one, ALICE)


def test_no_descriptor_is_left():
    with in_namespace(ALICE, nested=True) as one:
        before = os.listdir("/proc/self/fd")
        for uid in (ALICE, BOB):
            made_by(one, uid)
        assert os.listdir("/proc/self/fd") == before

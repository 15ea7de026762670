# SPDX-License-Identifier: Apache-2.0
"""Commands of tpm2-tools that hang or fail; what they do with a TPM the tests of the issuer's halves show."""

import asyncio
import os

import pytest

from attestor.errors import NodeAttestationError
from attestor.node.tpm import Tpm, machine


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Stands for ``tpm2_example``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(script):
        path = folder / "tpm2_example"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)

    return write


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_command_that_hangs_is_ended(tmp_path, command):
    command(f"echo $$ > {tmp_path}/pid; exec sleep 600")
    with pytest.raises(NodeAttestationError, match=r"tpm2_example took more than 0\.2 seconds"):
        await Tpm(tmp_path, "none", patience=0.2).run("example")
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_a_command_ends_with_who_waits_for_it(tmp_path, command):
    command(f"echo $$ > {tmp_path}/pid; mv {tmp_path}/pid {tmp_path}/started; exec sleep 600")
    waiting = asyncio.create_task(Tpm(tmp_path, "none").run("example"))
    async with asyncio.timeout(5):
        while not (tmp_path / "started").exists():
            await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not alive(int((tmp_path / "started").read_text()))


async def test_what_a_command_says_is_cut(tmp_path, command):
    command("yes error | head -c 100000 >&2; exit 1")
    with pytest.raises(NodeAttestationError, match="tpm2_example failed") as caught:
        await Tpm(tmp_path, "none").run("example")
    assert len(str(caught.value)) < 400


def test_the_folder_is_ours_alone_and_goes():
    with machine("none", files={"ek.ctx": b"context"}) as tpm:
        assert tpm.read("ek.ctx") == b"context"
        folder = tpm._folder
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()

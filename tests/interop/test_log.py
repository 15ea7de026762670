# SPDX-License-Identifier: Apache-2.0
"""Our log, read by the libraries that Go's checksum database and other transparency logs use."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from spiffekit.transparency.merkle import consistency_proof, inclusion_proof
from spiffekit.transparency.notes import KeyUse, Note
from spiffekit.transparency.tiles import TileReader
from tests.fakes.clock import FakeClock
from tests.issuer.governance.trails import ORIGIN, Trail
from tests.spiffekit.transparency.logs import signer


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """Read a log; return what was found, or raise what they say is wrong."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go toolchain on this machine")
    binary = tmp_path_factory.mktemp("go-log") / "log"
    command = [go, "build", "-o", str(binary), "."]
    where = Path(__file__).parent / "log"
    built = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stderr

    def read(folder, *keys):
        command = [binary, folder, *map(str, keys)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if ended.returncode:
            raise ValueError(ended.stderr)
        return json.loads(ended.stdout)

    return read


@pytest.fixture
def trail(tmp_path):
    made = Trail(tmp_path, FakeClock())
    yield made
    made.database.close()


def hashes(proofs):
    return [[base64.b64decode(found) for found in proof or ()] for proof in proofs]


@pytest.mark.parametrize("steps", [[1], [3, 4], [256], [257], [300, 411]])
async def test_they_find_what_we_recorded_and_make_the_same_proofs(reader, trail, steps):
    for count in steps:
        await trail.add(count)
        await trail.log.seal()
    found, size = reader(trail.files.folder, trail.signer.key), sum(steps)
    assert (found["origin"], found["size"], found["signers"]) == (ORIGIN, size, [ORIGIN])
    assert base64.b64decode(found["root"]) == trail.head().root
    assert [entry.encode() for entry in found["entries"]] == await trail.leaves()
    ours = TileReader(size, trail.files.read).hash_at
    assert hashes(found["inclusion"]) == [inclusion_proof(ours, index, size) for index in range(size)]
    assert hashes(found["consistency"]) == [consistency_proof(ours, old, size) for old in range(1, size + 1)]


async def test_they_verify_what_our_witness_cosigned(reader, trail):
    await trail.add(3)
    await trail.log.seal()
    cosigner, note = signer("witness.example", KeyUse.COSIGNATURE), Note.parse(trail.files.checkpoint())
    signature = cosigner.sign(note.text, now=trail.clock.now())
    trail.files.publish(Note(note.text, (*note.signatures, signature)).encode())
    found = reader(trail.files.folder, trail.signer.key, cosigner.key)
    assert found["signers"] == [ORIGIN, "witness.example"]
    other = signer("witness.example.2", KeyUse.COSIGNATURE).sign("x", now=trail.clock.now())
    forged = other._replace(name=cosigner.key.name, key_id=cosigner.key.id)
    trail.files.publish(Note(note.text, (*note.signatures, forged)).encode())
    with pytest.raises(ValueError, match="invalid signature"):
        reader(trail.files.folder, trail.signer.key, cosigner.key)


@pytest.mark.parametrize("path", ["checkpoint", "tile/0/000", "tile/1/000.p/1", "tile/entries/001.p/44"])
async def test_they_refuse_what_was_changed(reader, trail, path):
    await trail.add(300)
    await trail.log.seal()
    file = trail.files.folder / path
    content = bytearray(file.read_bytes())
    content[25] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        reader(trail.files.folder, trail.signer.key)

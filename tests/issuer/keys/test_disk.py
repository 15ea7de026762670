# SPDX-License-Identifier: Apache-2.0
"""Keys in files: ours alone, whole or not at all, and unreadable without the passphrase."""

import base64
import os
import re
import resource
import signal
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization

from issuer.keys import KeyManagerError
from issuer.keys.disk import Config, create
from spiffekit.daemon.config import ConfigError
from spiffekit.keys import KeyType, public_key_to_der

P256 = KeyType.EC_P256


def manager(folder, passphrase=None):
    if passphrase is None:
        return create(Config(folder / "keys"))
    path = folder / "passphrase"
    path.write_bytes(passphrase)
    return create(Config(folder / "keys", path))


def refused(message):
    return pytest.raises(KeyManagerError, match="^" + re.escape(message) + "$")


UNREADABLE = "key 'k': not a PEM private key, or the password is wrong"


@pytest.mark.parametrize("passphrase", [None, b"secret"], ids=["plain", "encrypted"])
async def test_keys_survive_a_restart(tmp_path, passphrase):
    made = await manager(tmp_path, passphrase).generate("k", P256)
    found = await manager(tmp_path, passphrase).get("k")
    assert public_key_to_der(found.public_key) == public_key_to_der(made.public_key)
    assert await manager(tmp_path, passphrase).list() == ["k"]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
async def test_files_are_ours_alone_whatever_the_umask(tmp_path, umask):
    """SPI-01-002: SPIRE's keys.json could be read by everybody."""
    keys = manager(tmp_path)
    before = os.umask(umask)
    try:
        if umask == 0o777:
            (tmp_path / "keys").mkdir()
            (tmp_path / "keys").chmod(0o700)
        await keys.generate("k", P256)
        await keys.generate("k", P256)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "keys/k.pem").stat().st_mode) == 0o600
    assert os.listdir(tmp_path / "keys") == ["k.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o777])
async def test_a_key_that_others_may_read_is_not_used(tmp_path, mode):
    await manager(tmp_path).generate("k", P256)
    path = tmp_path / "keys/k.pem"
    path.chmod(mode)
    with refused(f"key 'k': {path}: others may read this key; its mode has to be 0600"):
        await manager(tmp_path).get("k")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
async def test_a_folder_that_others_may_enter_gets_no_key(tmp_path, mode):
    folder = tmp_path / "keys"
    folder.mkdir()
    folder.chmod(mode)
    with refused(f"key 'k': {folder}: has to belong to us, with mode 0700"):
        await manager(tmp_path).generate("k", P256)
    assert os.listdir(folder) == []


async def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "keys").write_text("")
    with refused(f"key 'k': File exists: {tmp_path / 'keys'}"):
        await manager(tmp_path).generate("k", P256)


async def test_with_a_passphrase_no_plain_key_is_on_the_disk(tmp_path):
    key = await manager(tmp_path, b"secret").generate("k", P256)
    scalar = key._private_key.private_numbers().private_value.to_bytes(32)
    content = (tmp_path / "keys/k.pem").read_bytes()
    assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    body = base64.b64decode(b"".join(content.splitlines()[1:-1]))
    assert scalar not in body
    plain = (await manager(tmp_path / "p").generate("k", P256))._private_key
    der = plain.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    assert plain.private_numbers().private_value.to_bytes(32) in der, "the check above can find a key"


@pytest.mark.parametrize(
    ("written", "read"),
    [(b"secret", b"wrong"), (b"secret", None), (None, b"secret"), (b"secret", b"secret ")],
    ids=["another", "none", "of a plain key", "a blank more"],
)
async def test_a_wrong_passphrase_is_a_clear_error(tmp_path, written, read):
    await manager(tmp_path, written).generate("k", P256)
    with refused(UNREADABLE):
        await manager(tmp_path, read).get("k")
    assert await manager(tmp_path, written).get("k"), "nothing was changed"


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"-----BEGIN PRIVATE KEY-----\n", b"x" * 100_000])
async def test_a_damaged_file_is_a_clear_error(tmp_path, content):
    await manager(tmp_path).generate("k", P256)
    (tmp_path / "keys/k.pem").write_bytes(content)
    with refused(UNREADABLE):
        await manager(tmp_path).get("k")


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nsecond line\n"])
async def test_the_passphrase_is_the_first_line(tmp_path, end):
    await manager(tmp_path, b"a secret").generate("k", P256)
    assert await manager(tmp_path, b"a secret" + end).get("k")


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n", b"\nsecret"])
def test_an_empty_passphrase_is_refused(tmp_path, content):
    with pytest.raises(ConfigError) as caught:
        manager(tmp_path, content)
    assert caught.value.errors == [f"passphrase_file: {tmp_path / 'passphrase'}: the first line is empty"]


def test_a_missing_passphrase_file_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError) as caught:
        create(Config(tmp_path / "keys", tmp_path / "passphrase"))
    assert caught.value.errors == [f"passphrase_file: {tmp_path / 'passphrase'}: No such file or directory"]


@pytest.mark.parametrize("name", ["", "a/b", "../k", "/k", "a\0", "a\nb", "a b"])
async def test_a_name_never_leaves_the_folder(tmp_path, name):
    keys = manager(tmp_path)
    for act in (keys.generate(name, P256), keys.get(name), keys.delete(name)):
        with pytest.raises(ValueError, match=r"^invalid key name "):
            await act
    assert not (tmp_path / "k.pem").exists()


async def test_a_file_that_cannot_be_written_leaves_the_old_key(tmp_path):
    """As on a full disk: here the size of files is limited."""
    keys = manager(tmp_path)
    first = await keys.generate("k", P256)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(KeyManagerError, match=r"^key 'k': File too large"):
            await keys.generate("k", P256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for again in (keys, manager(tmp_path)):
        assert public_key_to_der((await again.get("k")).public_key) == public_key_to_der(first.public_key)
    assert os.listdir(tmp_path / "keys") == ["k.pem"]


KILLED_BEFORE_THE_RENAME = """
import asyncio, os, pathlib, signal, sys
from issuer.keys.disk import Config, create
from spiffekit.keys import KeyType
os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(create(Config(pathlib.Path(sys.argv[1]))).generate("k", KeyType.EC_P256))
"""


@pytest.mark.parametrize("existing", [True, False], ids=["replaced", "new"])
async def test_a_kill_between_write_and_rename_leaves_the_old_key_or_none(tmp_path, existing):
    keys = manager(tmp_path)
    first = await keys.generate("k", P256) if existing else None
    program = [sys.executable, "-c", KILLED_BEFORE_THE_RENAME, str(tmp_path / "keys")]
    ended = subprocess.run(program, capture_output=True, timeout=30)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    after = manager(tmp_path)
    assert await after.list() == (["k"] if existing else [])
    if first is not None:
        assert public_key_to_der((await after.get("k")).public_key) == public_key_to_der(first.public_key)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (tmp_path / "keys").iterdir())
    assert await after.generate("k", P256), "what the killed one left is in nobody's way"

# SPDX-License-Identifier: Apache-2.0
"""Private files are readable by us alone, whole or not there at all."""

import os
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.key_files import KeyFiles, private_folder, write_private
from spiffekit.errors import UnsupportedKeyError
from spiffekit.keys import private_key_to_der


@pytest.fixture
def key():
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("open_umask")
def test_files_and_folders_are_ours_alone_whatever_the_umask(tmp_path, key):
    """SPI-01-002: a key file of mode 0644."""
    files = KeyFiles(tmp_path / "a" / "keys")
    files.save("node", key)
    assert mode(tmp_path / "a" / "keys") == 0o700
    assert mode(tmp_path / "a" / "keys" / "node.pem") == 0o600


def test_a_strict_umask_is_no_obstacle(tmp_path):
    before = os.umask(0o777)
    try:
        write_private(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "f") == 0o600


@pytest.mark.parametrize("passphrase", [None, b"correct horse"])
def test_a_key_comes_back_as_it_was(tmp_path, key, passphrase):
    files = KeyFiles(tmp_path / "keys", passphrase)
    assert files.names() == []
    assert files.load("node") is None
    files.save("node", key)
    files.save("other.key-1_x", key)
    assert files.names() == ["node", "other.key-1_x"]
    assert private_key_to_der(files.load("node")) == private_key_to_der(key)
    files.delete("node")
    files.delete("node")
    assert files.names() == ["other.key-1_x"]
    assert files.load("node") is None


def test_a_passphrase_encrypts_and_nothing_else_opens_the_file(tmp_path, key):
    KeyFiles(tmp_path / "keys", b"correct").save("node", key)
    assert b"ENCRYPTED" in (tmp_path / "keys" / "node.pem").read_bytes()
    for wrong in (None, b"false"):
        with pytest.raises(UnsupportedKeyError, match="not a PEM private key, or the password is wrong"):
            KeyFiles(tmp_path / "keys", wrong).load("node")


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_a_torn_key_is_an_error_and_not_a_missing_key(tmp_path, key, cut):
    files = KeyFiles(tmp_path / "keys")
    files.save("node", key)
    path = tmp_path / "keys" / "node.pem"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UnsupportedKeyError, match="not a PEM private key"):
        files.load("node")


@pytest.mark.parametrize("others", [0o604, 0o640, 0o660, 0o666, 0o610])
def test_a_key_that_others_may_read_is_refused(tmp_path, key, others):
    files = KeyFiles(tmp_path / "keys")
    files.save("node", key)
    path = tmp_path / "keys" / "node.pem"
    path.chmod(others)
    with pytest.raises(ConfigError) as caught:
        files.load("node")
    assert caught.value.errors == [f"{path}: others may read this key; its mode has to be 0600"]


@pytest.mark.parametrize("others", [0o701, 0o710, 0o750, 0o755, 0o777])
def test_a_folder_that_others_may_enter_is_refused(tmp_path, key, others):
    folder = tmp_path / "keys"
    folder.mkdir()
    folder.chmod(others)
    with pytest.raises(ConfigError) as caught:
        KeyFiles(folder).save("node", key)
    assert caught.value.errors == [f"{folder}: has to belong to us, with mode 0700"]
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user")
def test_a_folder_of_another_user_is_refused(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigError, match="has to belong to us"):
        private_folder(folder)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0b", "a b", "*", "a\n"])
def test_a_name_cannot_leave_the_folder(tmp_path, key, name):
    files = KeyFiles(tmp_path / "keys")
    for act in (lambda: files.save(name, key), lambda: files.load(name), lambda: files.delete(name)):
        with pytest.raises(ValueError, match="invalid key name"):
            act()


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "f"
    write_private(path, b"old")
    old = path.stat().st_ino
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino != old
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "f"
    write_private(path, b"old")
    with pytest.raises(TypeError):
        write_private(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_link_is_replaced_and_not_followed(tmp_path):
    target = tmp_path / "target"
    target.write_bytes(b"of another")
    (tmp_path / "f").symlink_to(target)
    write_private(tmp_path / "f", b"ours")
    assert target.read_bytes() == b"of another"
    assert not (tmp_path / "f").is_symlink()


def test_an_existing_strict_folder_is_taken(tmp_path):
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    assert private_folder(folder) == folder
    folder.chmod(0o500)
    assert private_folder(folder) == folder

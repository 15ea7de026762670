# SPDX-License-Identifier: Apache-2.0
"""The node's key survives a restart; what else it does is in the contract of node keys."""

import stat

import pytest

from attestor.issuer_client import new_key
from attestor.keys.disk import PREFIX, Config, create
from spiffekit.daemon.config import ConfigError
from spiffekit.keys import private_key_to_der


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "keys"


def manager(folder):
    return create(Config(folder))


def ders(folder):
    return {private_key_to_der(key) for key in manager(folder).load()}


def test_keys_survive_a_restart(folder):
    old, new = new_key(), new_key()
    manager(folder).add(old)
    manager(folder).add(new)
    assert ders(folder) == {private_key_to_der(old), private_key_to_der(new)}
    manager(folder).keep_only(new)
    assert ders(folder) == {private_key_to_der(new)}


def test_a_key_that_is_added_again_is_there_once(folder):
    key = new_key()
    manager(folder).add(key)
    manager(folder).add(key)
    assert len(list(folder.iterdir())) == 1


def test_files_are_ours_alone(folder):
    manager(folder).add(new_key())
    (file,) = folder.iterdir()
    assert file.name.startswith(PREFIX)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_other_files_are_left_alone(folder):
    manager(folder).add(key := new_key())
    stranger = folder / "stranger.pem"
    stranger.write_bytes(b"not ours")
    assert ders(folder) == {private_key_to_der(key)}
    manager(folder).keep_only(key)
    assert stranger.read_bytes() == b"not ours"


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PRIVATE KEY-----\nMIGH"], ids=["empty", "cut off"])
def test_a_damaged_key_does_not_hide_the_other(folder, caplog, content):
    manager(folder).add(key := new_key())
    damaged = folder / f"{PREFIX}0000000000000000.pem"
    damaged.write_bytes(content)
    damaged.chmod(0o600)
    assert ders(folder) == {private_key_to_der(key)}
    assert "node key cannot be used" in caplog.text
    manager(folder).keep_only(key)
    assert not damaged.exists()


def test_a_key_that_vanishes_while_it_is_read_is_none(folder):
    manager(folder).add(new_key())
    keys = manager(folder)
    (file,) = folder.iterdir()
    names = keys._files.names
    keys._files.names = lambda: [*names(), file.unlink() or "node-gone"][:2]
    assert keys.load() == []


def test_a_key_that_others_can_read_is_refused(folder):
    manager(folder).add(new_key())
    (file,) = folder.iterdir()
    file.chmod(0o640)
    with pytest.raises(ConfigError, match="its mode has to be 0600"):
        manager(folder).load()
    file.chmod(0o600)
    folder.chmod(0o750)
    with pytest.raises(ConfigError, match="with mode 0700"):
        manager(folder).load()

# SPDX-License-Identifier: Apache-2.0
"""What every key manager of the issuer does, wherever it keeps its keys."""

import asyncio

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from issuer.keys import KeyManager, KeyManagerError, KeyNotFoundError, disk, memory
from spiffekit.keys import KeyType, check_public_key, public_key_to_der
from tests.issuer.ca.world import FailingKeys


def in_memory(_):
    return memory.create(memory.Config())


def on_disk(folder):
    return disk.create(disk.Config(folder / "keys"))


def encrypted(folder):
    passphrase = folder / "passphrase"
    passphrase.write_text("correct horse\n")
    return disk.create(disk.Config(folder / "keys", passphrase))


def fake(_):
    return FailingKeys()


@pytest.fixture(params=[in_memory, on_disk, encrypted, fake], ids=lambda make: make.__name__)
def manager(request, tmp_path) -> KeyManager:
    return request.param(tmp_path)


@pytest.mark.parametrize("key_type", [KeyType.EC_P256, KeyType.EC_P384, KeyType.RSA_2048], ids=str)
async def test_a_key_signs_what_its_public_half_verifies(manager, key_type):
    key = await manager.generate("k", key_type)
    assert key.id == "k"
    public_key = check_public_key(key.public_key)
    signature = await key.sign(b"data")

    def verify(data):
        if isinstance(public_key, ec.EllipticCurvePublicKey):
            digest = {256: hashes.SHA256(), 384: hashes.SHA384()}[public_key.key_size]
            public_key.verify(signature, data, ec.ECDSA(digest))
        else:
            public_key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())

    verify(b"data")
    with pytest.raises(InvalidSignature):
        verify(b"date")


async def test_a_key_is_found_again(manager):
    made = await manager.generate("k", KeyType.EC_P256)
    found = await manager.get("k")
    assert public_key_to_der(found.public_key) == public_key_to_der(made.public_key)
    assert found.id == "k"


async def test_a_key_of_the_same_name_takes_the_place_of_the_first(manager):
    first = await manager.generate("k", KeyType.EC_P256)
    second = await manager.generate("k", KeyType.EC_P384)
    found = await manager.get("k")
    assert public_key_to_der(found.public_key) == public_key_to_der(second.public_key)
    assert public_key_to_der(found.public_key) != public_key_to_der(first.public_key)
    assert await manager.list() == ["k"]


async def test_what_is_not_there_is_not_found(manager):
    with pytest.raises(KeyNotFoundError, match=r"^no key 'k'$") as caught:
        await manager.get("k")
    assert isinstance(caught.value, KeyManagerError)


async def test_keys_are_listed_by_name(manager):
    assert await manager.list() == []
    for name in ("b", "a.1", "x509-0f", "A_z"):
        await manager.generate(name, KeyType.EC_P256)
    assert await manager.list() == ["A_z", "a.1", "b", "x509-0f"]


async def test_a_deleted_key_is_gone_and_others_stay(manager):
    await manager.delete("a")
    for name in ("a", "b"):
        await manager.generate(name, KeyType.EC_P256)
    await manager.delete("a")
    await manager.delete("a")
    await manager.delete("never")
    assert await manager.list() == ["b"]
    with pytest.raises(KeyNotFoundError):
        await manager.get("a")
    assert await manager.get("b")


async def test_many_keys_can_be_made_at_once(manager):
    made = await asyncio.gather(*(manager.generate(f"k{i}", KeyType.EC_P256) for i in range(20)))
    assert len({public_key_to_der(key.public_key) for key in made}) == 20
    assert len(await manager.list()) == 20


async def test_a_key_shows_nothing_of_itself(manager):
    key = await manager.generate("k", KeyType.EC_P256)
    assert repr(key) == "LocalKey('k')"

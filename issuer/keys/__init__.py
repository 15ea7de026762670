# SPDX-License-Identifier: Apache-2.0
"""Key managers: where the authorities' private keys live, and who may sign with them."""

from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from issuer.errors import IssuerError
from spiffekit.keys import KeyType, PrivateKey, PublicKey


class KeyManagerError(IssuerError):
    """The key manager failed; the message names the key."""


class KeyNotFoundError(KeyManagerError):
    """The key manager has no key of that ID."""


class Key(Protocol):
    """A private key that may be far away."""

    @property
    def id(self) -> str:
        """The name under which the key manager keeps it."""

    @property
    def public_key(self) -> PublicKey:
        """Its public half."""

    async def sign(self, data: bytes) -> bytes:
        """Sign: ECDSA in DER, or RSA PKCS#1 v1.5; SHA-384 for P-384, SHA-256 for the others.

        A local key finishes without suspending.
        """


class KeyManager(Protocol):
    """Keeps keys by ID."""

    async def generate(self, key_id: str, key_type: KeyType) -> Key:
        """Make a key under `key_id`, in place of another."""

    async def get(self, key_id: str) -> Key:
        """Return a key, or raise `KeyNotFoundError`."""

    async def list(self) -> list[str]:
        """Return the IDs of all keys."""

    async def delete(self, key_id: str) -> None:
        """Forget a key, if it is there."""


class LocalKey:
    """A key in our own memory."""

    def __init__(self, key_id: str, private_key: PrivateKey) -> None:
        self.id = key_id
        self._private_key = private_key
        self.public_key: PublicKey = private_key.public_key()
        p384 = isinstance(private_key, ec.EllipticCurvePrivateKey) and private_key.key_size == 384
        self._ecdsa = ec.ECDSA(hashes.SHA384() if p384 else hashes.SHA256())

    async def sign(self, data: bytes) -> bytes:
        """Sign; see `Key.sign`."""
        match self._private_key:
            case ec.EllipticCurvePrivateKey() as key:
                return key.sign(data, self._ecdsa)
            case rsa.RSAPrivateKey() as key:
                return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
            case ed25519.Ed25519PrivateKey():
                raise ValueError("authorities do not use Ed25519: SPIFFE's JOSE algorithms lack it")

    def __repr__(self) -> str:
        return f"LocalKey({self.id!r})"

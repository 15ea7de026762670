# SPDX-License-Identifier: Apache-2.0
"""What Google's Compute API says of an instance: that it still runs, its tags, labels and metadata.

The issuer asks as a service account: that of its own instance, or one whose key it has. With a key it signs a
token for this API alone and sends that, so that there is nothing to exchange it for.
"""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Protocol

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from issuer.errors import NodeRejectedError, PlatformUnavailableError
from issuer.node.bearer import KeptToken
from spiffekit.daemon.clock import Clock
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import HttpError, Peer, request
from spiffekit.errors import SpiffeError
from spiffekit.jws import signing_input, with_signature
from spiffekit.keys import private_key_from_pem

HOST: Final = "compute.googleapis.com"
METADATA: Final = Peer("metadata.google.internal", 80)
TIMEOUT: Final = 10  # seconds for all that is asked about an instance
MAX_ANSWER: Final = 2 * 1024 * 1024  # bytes; an instance has 512 KiB of metadata at most
MAX_TOKEN_ANSWER: Final = 16 * 1024  # bytes
MAX_KEY_FILE: Final = 64 * 1024  # bytes
MAX_FACTS: Final = 256  # tags or labels; Google allows 64
_SPARE: Final = 60  # seconds before its end in which a token is not used any more
_LONGEST: Final = 3600  # seconds that a token is used
_TOKEN_PATH: Final = "/computeMetadata/v1/instance/service-accounts/default/token"  # noqa: S105 - no token
_FIELDS: Final = "id,status,tags/items,labels,metadata/items"
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)
_TOKEN: Final = re.compile(r"[!-~]{1,8192}", re.ASCII)


class _Tags(msgspec.Struct, frozen=True):
    items: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_FACTS)] = ()


class _Item(msgspec.Struct, frozen=True):
    key: str
    value: str = ""


class _Metadata(msgspec.Struct, frozen=True):
    items: tuple[_Item, ...] = ()


class Instance(msgspec.Struct, frozen=True):
    """An instance as the API describes it."""

    id: str
    status: str
    tags: _Tags = _Tags()
    labels: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_FACTS)] = {}
    metadata: _Metadata = _Metadata()


class _AccessToken(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: int


class _KeyFile(msgspec.Struct, frozen=True):
    client_email: str
    private_key_id: str
    private_key: str


class TokenSource(Protocol):
    """Where a token for the API comes from."""

    async def fetch(self) -> tuple[str, int]:
        """Return a token, and for how many seconds it counts.

        Raises:
            HttpError: There is none.
        """


class MetadataServer:
    """The token of the service account of the issuer's own instance."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def fetch(self) -> tuple[str, int]:
        """See `TokenSource`."""
        headers = {"metadata-flavor": "Google"}
        async with request(self._peer, "GET", _TOKEN_PATH, headers=headers) as answer:
            if answer.status != 200 or answer.header("metadata-flavor") != "Google":
                raise HttpError(f"metadata server answered with status {answer.status}")
            body = await answer.body(MAX_TOKEN_ANSWER)
        try:
            token = msgspec.json.decode(body, type=_AccessToken)
        except ValueError:
            token = _AccessToken("", 0)
        if not _TOKEN.fullmatch(token.access_token):  # h11 would name what is no header
            raise HttpError("metadata server answered with no token")
        return token.access_token, token.expires_in


class ServiceAccountKey:
    """Tokens of a service account, signed here with its key.

    Raises:
        ConfigError: The file does not have the key of one.
    """

    def __init__(self, file: Path, clock: Clock) -> None:
        self._clock = clock
        try:
            with file.open("rb") as opened:
                read = msgspec.json.decode(opened.read(MAX_KEY_FILE), type=_KeyFile)
            key = private_key_from_pem(read.private_key.encode("utf-8"))
        except (OSError, ValueError, RecursionError, SpiffeError) as error:
            raise ConfigError(f"service_account_file: {file} has no key of a service account") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise ConfigError(f"service_account_file: the key of {file} is not RSA")
        self._key = key
        self._key_id, self._email = read.private_key_id, read.client_email

    async def fetch(self) -> tuple[str, int]:
        """See `TokenSource`."""
        now = self._clock.now()
        ends = now + timedelta(seconds=_LONGEST)
        claims = {
            "iss": self._email,
            "sub": self._email,
            "aud": f"https://{HOST}/",
            "iat": int(now.timestamp()),
            "exp": int(ends.timestamp()),
        }
        signed = signing_input({"alg": "RS256", "typ": "JWT", "kid": self._key_id}, claims)
        signature = self._key.sign(signed.encode("ascii"), padding.PKCS1v15(), hashes.SHA256())
        return with_signature(signed, signature, "RS256"), _LONGEST


class ComputeApi:
    """Asks about instances; the token for that is kept while it counts."""

    def __init__(self, peer: Peer, source: TokenSource, clock: Clock) -> None:
        self._peer = peer
        self._token = KeptToken(source.fetch, clock, spare=_SPARE, longest=_LONGEST)

    async def instance(self, project: str, zone: str, name: str, instance_id: str) -> Instance:
        """Return what is true of an instance that runs; `project` has been checked.

        Raises:
            NodeRejectedError: There is none of that name, it is another one, or it does not run.
            PlatformUnavailableError: Google cannot be asked, or does not let us ask.
        """
        if not (_NAME.fullmatch(zone) and _NAME.fullmatch(name)):
            raise NodeRejectedError("instance has a zone or a name that no instance has")
        target = f"/compute/v1/projects/{project}/zones/{zone}/instances/{name}?fields={_FIELDS}"
        try:
            async with asyncio.timeout(TIMEOUT):
                body = await self._ask(target)
            found = msgspec.json.decode(body, type=Instance)
        except (HttpError, TimeoutError, ValueError, RecursionError) as error:
            why = str(error) or f"no answer within {TIMEOUT} s"
            raise PlatformUnavailableError(f"Google's Compute API cannot be asked: {why}") from error
        if found.id != instance_id:
            raise NodeRejectedError("instance is another one of that name")
        if found.status != "RUNNING":
            raise NodeRejectedError(f"instance does not run: {found.status[:40]!r}")
        return found

    async def _ask(self, target: str) -> bytes:
        for last in (False, True):
            bearer = f"Bearer {await self._token.current()}"
            headers = {"accept": "application/json", "authorization": bearer}
            async with request(self._peer, "GET", target, headers=headers) as answer:
                match answer.status:
                    case 200:
                        return await answer.body(MAX_ANSWER)
                    case 401 if not last:  # the token has ended before its time
                        self._token.forget()
                    case 404:
                        raise NodeRejectedError("instance does not exist")
                    case status:
                        raise HttpError(f"status {status}")
        raise AssertionError  # pragma: no cover - the last time returns or raises

# SPDX-License-Identifier: Apache-2.0
"""A cloud's metadata server, which tells each instance about itself over plain HTTP on the link."""

import asyncio
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from attestor.errors import NodeAttestationError
from spiffekit.daemon.config import ConfigError
from spiffekit.daemon.http import HttpError, Peer, request

MAX_ANSWER: Final = 64 * 1024  # bytes; who answers may be somebody else, and without end
TIMEOUT: Final = 10  # seconds for one question


def server(option: str, host: str) -> Peer:
    """Return the metadata server that an option names.

    Raises:
        ConfigError: It is not a host, or a host and a port.
    """
    try:
        parts = urlsplit(f"//{host}")
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{option}: {host!r} is not a host, or a host and a port") from error
    if not parts.hostname or parts.netloc != host or parts.username is not None:
        raise ConfigError(f"{option}: {host!r} is not a host, or a host and a port")
    return Peer(parts.hostname, 80 if port is None else port)


async def ask(
    peer: Peer,
    target: str,
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    sent_back: Mapping[str, str] | None = None,
) -> str:
    """Return what a metadata server answers. No redirect is followed.

    Args:
        peer: The server.
        target: Path and query.
        headers: What goes with the question.
        method: GET or PUT.
        sent_back: Headers that the answer has to have: a proxy that has it from elsewhere gives itself away.

    Raises:
        NodeAttestationError: It cannot be asked, refused, or answered with something else than some text.
    """
    try:
        async with asyncio.timeout(TIMEOUT), request(peer, method, target, headers=headers) as answer:
            if answer.status != 200:
                raise NodeAttestationError(f"metadata server {peer} answered with status {answer.status}")
            for name, value in (sent_back or {}).items():
                if answer.header(name) != value:
                    raise NodeAttestationError(f"{peer} is no metadata server: its answer lacks {name}")
            text = (await answer.body(MAX_ANSWER)).decode("utf-8")
    except TimeoutError as error:
        raise NodeAttestationError(f"metadata server {peer} did not answer within {TIMEOUT} s") from error
    except HttpError as error:
        raise NodeAttestationError(f"metadata server: {error}") from error
    except UnicodeDecodeError as error:
        raise NodeAttestationError(f"metadata server {peer} answered with other than UTF-8") from error
    if not text.strip():
        raise NodeAttestationError(f"metadata server {peer} answered with nothing")
    return text

# SPDX-License-Identifier: Apache-2.0
"""GET from the API of a container engine over its Unix socket.

An engine may be broken, or a user's own. So time, size and the socket's owner are bounded here.
"""

import asyncio
from pathlib import Path
from typing import Final

from attestor.errors import WorkloadAttestationError
from spiffekit.daemon.http import HttpError, UnixPeer, request

DEADLINE: Final = 4.0  # seconds from connecting to the last byte: an engine that hangs
MAX_BODY: Final = 1024 * 1024  # bytes: an answer that fills our memory; one of a container is 10 to 50 KiB
MAX_REQUESTS: Final = 16  # at once: a thousand workloads that start together


class EngineApi:
    """The API at one socket."""

    def __init__(self, path: Path, owner: int | None = None) -> None:
        """Name the socket.

        Args:
            path: Where it is.
            owner: The user that must have opened it; None: whoever may write there.
        """
        self._peer = UnixPeer(path, owner)
        self._slots = asyncio.Semaphore(MAX_REQUESTS)

    async def get(self, target: str) -> bytes | None:
        """Return the body of the resource; None if there is none (404).

        Args:
            target: An absolute path, as it goes into the request line.

        Raises:
            WorkloadAttestationError: The engine does not answer, or with anything else than it should.
        """
        try:
            async with (
                self._slots,
                asyncio.timeout(DEADLINE),
                request(self._peer, "GET", target) as answer,
            ):
                body = await answer.body(MAX_BODY)
        except TimeoutError as error:
            raise self._error(f"no answer within {DEADLINE:g} s") from error
        except HttpError as error:
            raise self._error(str(error)) from error
        if answer.status == 200:
            return body
        if answer.status == 404:
            return None
        raise self._error(f"answer has status {answer.status}")

    def _error(self, what: str) -> WorkloadAttestationError:
        return WorkloadAttestationError(f"engine at {self._peer}: {what}")

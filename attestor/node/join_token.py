# SPDX-License-Identifier: Apache-2.0
"""A join token proves this node once."""

from pathlib import Path
from typing import Final

import msgspec

from attestor.errors import NodeAttestationError
from spiffekit.daemon.config import ConfigError

MAX_TOKEN: Final = 255  # characters, as issuers take; a file of something else is not sent to them


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node_attestor.join_token]``.

    Attributes:
        token: The token; or
        token_file: a file that has it in its first line, read when it is needed.
    """

    token: str = ""
    token_file: Path | None = None


class JoinToken:
    """See the module."""

    type = "join_token"

    def __init__(self, config: Config) -> None:
        self._config = config

    async def payload(self) -> bytes:
        """Return the token.

        Raises:
            NodeAttestationError: There is none, or it is no token.
        """
        token = self._config.token
        if self._config.token_file is not None:
            try:
                token = self._config.token_file.read_text("ascii").split("\n", 1)[0].strip()
            except (OSError, UnicodeDecodeError) as error:
                raise NodeAttestationError(f"token_file {self._config.token_file} cannot be read") from error
        if not token:
            raise NodeAttestationError("there is no join token")
        if len(token) > MAX_TOKEN:
            raise NodeAttestationError(f"join token is longer than {MAX_TOKEN} characters")
        return token.encode()

    async def respond(self, challenge: bytes) -> bytes:
        """Refuse: this proof has no challenge."""
        del challenge
        raise NodeAttestationError("issuer sent a challenge for a join token")


def create(config: Config) -> JoinToken:
    """Make the attestor of a configuration table."""
    if bool(config.token) == (config.token_file is not None):
        raise ConfigError("token: exactly one of token and token_file is needed")
    if len(config.token) > MAX_TOKEN:
        raise ConfigError(f"token: longer than {MAX_TOKEN} characters")
    return JoinToken(config)

# SPDX-License-Identifier: Apache-2.0
"""Join tokens: redeeming one deletes it."""

from datetime import datetime

import sqlalchemy as sa

from issuer.errors import AlreadyExistsError, NotFoundError
from issuer.model import JoinToken
from issuer.store.schema import join_tokens, stamp, unstamp


class JoinTokenStore:
    """Join tokens by value."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def create(self, token: JoinToken) -> JoinToken:
        """Add a token.

        Raises:
            AlreadyExistsError: There is one of that value.
        """
        query = sa.select(join_tokens.c.value).where(join_tokens.c.value == token.value)
        if self._connection.execute(query).first() is not None:
            raise AlreadyExistsError("a join token of that value exists")
        self._connection.execute(
            join_tokens.insert().values(value=token.value, expires_at=stamp(token.expires_at))
        )
        return token

    def redeem(self, value: str) -> JoinToken:
        """Remove the token and return it, even if it has expired.

        Raises:
            NotFoundError: There is none of that value, or no longer.
        """
        statement = (
            join_tokens.delete().where(join_tokens.c.value == value).returning(join_tokens.c.expires_at)
        )
        rows = self._connection.execute(statement).all()
        if len(rows) != 1:
            raise NotFoundError("join token does not exist or has already been used")
        return JoinToken(value=value, expires_at=unstamp(rows[0].expires_at))

    def prune(self, now: datetime) -> int:
        """Remove the expired ones and return how many there were."""
        return self._connection.execute(
            join_tokens.delete().where(join_tokens.c.expires_at <= stamp(now))
        ).rowcount

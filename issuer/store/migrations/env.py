# SPDX-License-Identifier: Apache-2.0
"""Runs migrations on the connection that the database hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=True)
with context.begin_transaction():
    context.run_migrations()

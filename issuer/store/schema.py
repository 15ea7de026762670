# SPDX-License-Identifier: Apache-2.0
"""The tables. Instants are microseconds since the epoch, identities are text, lists are JSON."""

from datetime import UTC, datetime, timedelta
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

settings = Table(
    "settings", metadata, Column("name", Text, primary_key=True), Column("value", Text, nullable=False)
)

entries = Table(
    "entries",
    metadata,
    Column("id", Text, primary_key=True),
    Column("spiffe_id", Text, nullable=False),
    Column("parent_id", Text, nullable=False),
    Column("selectors", Text, nullable=False),  # JSON, sorted: part of what makes an entry unique
    Column("body", Text, nullable=False),  # JSON of everything else
    Column("expires_at", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("spiffe_id", "parent_id", "selectors"),
)
Index("entries_expires_at", entries.c.expires_at)

federations = Table(
    "federations",
    metadata,
    Column("entry_id", Text, ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
    Column("trust_domain", Text, ForeignKey("bundles.trust_domain"), primary_key=True),
)
Index("federations_trust_domain", federations.c.trust_domain)

nodes = Table(
    "nodes",
    metadata,
    Column("id", Text, primary_key=True),
    Column("attestation_type", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("new_serial", Text, nullable=False),
    Column("new_expires_at", BigInteger),
    Column("can_reattest", Boolean, nullable=False),
    Column("selectors", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("level", Integer, nullable=False),
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("value", Text, primary_key=True),
    Column("expires_at", BigInteger, nullable=False),
)

bundles = Table(
    "bundles",
    metadata,
    Column("trust_domain", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # spire.api.types.Bundle
    Column("sequence", BigInteger, nullable=False),
)

authorities = Table(
    "authorities",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("tainted", Boolean, nullable=False),
)

agents = Table(  # rows are never deleted, and those of retired agents never changed: triggers see to it
    "agents",
    metadata,
    Column("spiffe_id", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("version", BigInteger, nullable=False, unique=True),
    Column("agent_class", Text, ForeignKey("agent_classes.name")),
    Column("body", Text, nullable=False),  # JSON of everything else
)

agent_classes = Table(
    "agent_classes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("body", Text, nullable=False),  # JSON of everything else
)

revocations = Table(
    "revocations",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("spiffe_id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("until", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)
Index("revocations_spiffe_id", revocations.c.spiffe_id)
Index("revocations_until", revocations.c.until)

policies = Table(  # rows are neither changed nor deleted: triggers see to it
    "policies",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("text", Text),  # NULL: this version ended the policy
    Column("enforced", Boolean, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("name", "version"),
)

attestor_runs = Table(
    "attestor_runs",
    metadata,
    Column("node", Text, primary_key=True),
    Column("boot", Text, primary_key=True),
    Column("turn", Integer, nullable=False),  # the node's greatest is of the run that reported last
    Column("last", BigInteger, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("at", BigInteger, nullable=False),  # of the node's last report
)

changes = Table(
    "changes",
    metadata,
    Column("revision", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("key", Text, nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("event", LargeBinary, nullable=False),  # the leaf of the log; all else is there to find it by
    Column("id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("type", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("credential", Text),  # the serial number, `jti` or hash of what was handed out
    Column("txn", Text),  # the transaction that a verifier tells of
)
for _name in ("id", "at", "actor", "subject", "credential"):
    Index(f"audit_{_name}", audit.c[_name])
# Of what we gave. Without `node.`, the word of nodes: they may say as much as they like, and taking back
# waits for nobody. SQLite uses the index for queries that have these very words: no parameters, thus.
ISSUED: Final = text("credential IS NOT NULL AND substr(type, 1, 5) <> 'node.'")
audit_issued = Index("audit_issued", audit.c.subject, audit.c.at, sqlite_where=ISSUED)
audit_txn = Index("audit_txn", audit.c.txn, sqlite_where=audit.c.txn.is_not(None))


def stamp(instant: datetime) -> int:
    """Return microseconds since the epoch."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def unstamp(microseconds: int) -> datetime:
    """Return the instant."""
    return _EPOCH + timedelta(microseconds=microseconds)

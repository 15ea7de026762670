# SPDX-License-Identifier: Apache-2.0
"""Between evidence and its message."""

import re
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from google.protobuf.message import Message

from spiffekit.errors import EvidenceError, SelectorError
from spiffekit.evidence import MAX_ANCESTORS, AncestorFacts, ContainerFacts, Evidence, PodFacts, ProcessFacts
from spiffekit.wire.convert import microseconds, selector_from_proto, selector_to_proto
from spiffekit.wire.pb.issuer.v1 import evidence_pb2

F = TypeVar("F", ProcessFacts, AncestorFacts, ContainerFacts, PodFacts)

ID_BYTES: Final = 16
MAX_SELECTORS: Final = 2000  # of one workload: labels and environment of a large pod
MAX_TEXT: Final = 4096  # bytes of one fact: a path
_INSTANCE: Final = re.compile(r"[a-z2-7]{26}", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def evidence_to_proto(evidence: Evidence) -> evidence_pb2.Evidence:
    """Return the message of evidence."""
    message = evidence_pb2.Evidence(
        id=evidence.id,
        instance_uid=evidence.instance_uid,
        collected_at=microseconds(evidence.collected_at),
        selectors=[selector_to_proto(selector) for selector in sorted(evidence.selectors)],
    )
    for name in ("process", "container", "pod"):
        facts = getattr(evidence, name)
        if facts is not None:
            _fill(getattr(message, name), facts)
    message.ancestors.extend(map(ancestor_to_proto, evidence.ancestors))
    return message


def ancestor_to_proto(ancestor: AncestorFacts) -> evidence_pb2.AncestorFacts:
    """Return the message of a process above another."""
    message = evidence_pb2.AncestorFacts()
    _fill(message, ancestor)
    return message


def _fill(message: Message, facts: Any) -> None:
    message.SetInParent()
    for field in fields(facts):
        setattr(message, field.name, getattr(facts, field.name))


def evidence_from_proto(message: evidence_pb2.Evidence) -> Evidence:
    """Return the evidence of a message.

    Raises:
        EvidenceError: A field breaks a rule; the message names both.
    """
    if len(message.id) != ID_BYTES:
        raise EvidenceError(f"evidence.id: needs {ID_BYTES} bytes")
    if not _INSTANCE.fullmatch(message.instance_uid):
        raise EvidenceError("evidence.instance_uid: needs 26 characters of a-z and 2-7")
    if not message.HasField("process"):
        raise EvidenceError("evidence.process: is missing")
    if len(message.selectors) > MAX_SELECTORS:
        raise EvidenceError(f"evidence.selectors: more than {MAX_SELECTORS}")
    if len(message.ancestors) > MAX_ANCESTORS:
        raise EvidenceError(f"evidence.ancestors: more than {MAX_ANCESTORS}")
    try:
        selectors = frozenset(map(selector_from_proto, message.selectors))
        collected_at = _EPOCH + timedelta(microseconds=message.collected_at)
    except SelectorError as error:
        raise EvidenceError(f"evidence.selectors: {error}") from error
    except OverflowError as error:
        raise EvidenceError("evidence.collected_at: not a point in time") from error
    return Evidence(
        id=message.id,
        instance_uid=message.instance_uid,
        collected_at=collected_at,
        selectors=selectors,
        process=_facts(ProcessFacts, message.process),
        ancestors=tuple(_facts(AncestorFacts, ancestor) for ancestor in message.ancestors),
        container=_facts(ContainerFacts, message.container) if message.HasField("container") else None,
        pod=_facts(PodFacts, message.pod) if message.HasField("pod") else None,
    )


def _facts(kind: type[F], message: Message) -> F:
    values = {field.name: getattr(message, field.name) for field in fields(kind)}
    for name, value in values.items():
        if isinstance(value, str) and len(value.encode()) > MAX_TEXT:
            raise EvidenceError(f"evidence: {name} is longer than {MAX_TEXT} bytes")
    return kind(**values)

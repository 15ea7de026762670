from spiffekit.wire.pb.issuer.v1 import evidence_pb2 as _evidence_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Refused(_message.Message):
    __slots__ = ("correlation_id",)
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    def __init__(self, correlation_id: _Optional[str] = ...) -> None: ...

class LookUpRequest(_message.Message):
    __slots__ = ("correlation_id",)
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    correlation_id: str
    def __init__(self, correlation_id: _Optional[str] = ...) -> None: ...

class LookUpResponse(_message.Message):
    __slots__ = ("at", "pid", "uid", "code", "reason", "selectors", "failed", "misses")
    AT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    at: int
    pid: int
    uid: int
    code: str
    reason: str
    selectors: _containers.RepeatedScalarFieldContainer[str]
    failed: _containers.RepeatedScalarFieldContainer[str]
    misses: _containers.RepeatedCompositeFieldContainer[Miss]
    def __init__(self, at: _Optional[int] = ..., pid: _Optional[int] = ..., uid: _Optional[int] = ..., code: _Optional[str] = ..., reason: _Optional[str] = ..., selectors: _Optional[_Iterable[str]] = ..., failed: _Optional[_Iterable[str]] = ..., misses: _Optional[_Iterable[_Union[Miss, _Mapping]]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("findings", "matches", "misses", "entries", "node_id", "posture_changes", "ancestors")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    POSTURE_CHANGES_FIELD_NUMBER: _ClassVar[int]
    ANCESTORS_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    misses: _containers.RepeatedCompositeFieldContainer[Miss]
    entries: int
    node_id: str
    posture_changes: _containers.RepeatedCompositeFieldContainer[PostureChange]
    ancestors: _containers.RepeatedCompositeFieldContainer[_evidence_pb2.AncestorFacts]
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., misses: _Optional[_Iterable[_Union[Miss, _Mapping]]] = ..., entries: _Optional[int] = ..., node_id: _Optional[str] = ..., posture_changes: _Optional[_Iterable[_Union[PostureChange, _Mapping]]] = ..., ancestors: _Optional[_Iterable[_Union[_evidence_pb2.AncestorFacts, _Mapping]]] = ...) -> None: ...

class PostureChange(_message.Message):
    __slots__ = ("at", "entries", "gone", "new")
    AT_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    GONE_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    at: int
    entries: _containers.RepeatedScalarFieldContainer[str]
    gone: _containers.RepeatedScalarFieldContainer[str]
    new: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, at: _Optional[int] = ..., entries: _Optional[_Iterable[str]] = ..., gone: _Optional[_Iterable[str]] = ..., new: _Optional[_Iterable[str]] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("type", "selectors", "error", "collected_at", "took")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    COLLECTED_AT_FIELD_NUMBER: _ClassVar[int]
    TOOK_FIELD_NUMBER: _ClassVar[int]
    type: str
    selectors: _containers.RepeatedScalarFieldContainer[str]
    error: str
    collected_at: int
    took: int
    def __init__(self, type: _Optional[str] = ..., selectors: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., collected_at: _Optional[int] = ..., took: _Optional[int] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "hint", "svid_expires_at", "per_process")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    SVID_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    PER_PROCESS_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    hint: str
    svid_expires_at: int
    per_process: bool
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., hint: _Optional[str] = ..., svid_expires_at: _Optional[int] = ..., per_process: _Optional[bool] = ...) -> None: ...

class Miss(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "missing", "template_error")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ERROR_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    template_error: str
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ..., template_error: _Optional[str] = ...) -> None: ...

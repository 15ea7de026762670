from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ExplainRequest(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: _Optional[int] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("findings", "matches", "misses", "entries")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    MISSES_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    matches: _containers.RepeatedCompositeFieldContainer[Match]
    misses: _containers.RepeatedCompositeFieldContainer[Miss]
    entries: int
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., matches: _Optional[_Iterable[_Union[Match, _Mapping]]] = ..., misses: _Optional[_Iterable[_Union[Miss, _Mapping]]] = ..., entries: _Optional[int] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("type", "selectors", "error")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    type: str
    selectors: _containers.RepeatedScalarFieldContainer[str]
    error: str
    def __init__(self, type: _Optional[str] = ..., selectors: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "hint", "svid_expires_at")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    HINT_FIELD_NUMBER: _ClassVar[int]
    SVID_EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    hint: str
    svid_expires_at: int
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., hint: _Optional[str] = ..., svid_expires_at: _Optional[int] = ...) -> None: ...

class Miss(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "missing")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ...) -> None: ...

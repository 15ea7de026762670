from spiffekit.wire.pb.spire.api import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WhyRequest(_message.Message):
    __slots__ = ("node_id", "entry_id", "selectors")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    entry_id: str
    selectors: _containers.RepeatedCompositeFieldContainer[_types_pb2.Selector]
    def __init__(self, node_id: _Optional[str] = ..., entry_id: _Optional[str] = ..., selectors: _Optional[_Iterable[_Union[_types_pb2.Selector, _Mapping]]] = ...) -> None: ...

class WhyResponse(_message.Message):
    __slots__ = ("node", "entries")
    NODE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    node: NodeState
    entries: _containers.RepeatedCompositeFieldContainer[EntryState]
    def __init__(self, node: _Optional[_Union[NodeState, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[EntryState, _Mapping]]] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("known", "banned", "attestation_type", "attestation_level", "selectors", "aliases")
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    BANNED_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_TYPE_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_LEVEL_FIELD_NUMBER: _ClassVar[int]
    SELECTORS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    known: bool
    banned: bool
    attestation_type: str
    attestation_level: str
    selectors: _containers.RepeatedScalarFieldContainer[str]
    aliases: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, known: _Optional[bool] = ..., banned: _Optional[bool] = ..., attestation_type: _Optional[str] = ..., attestation_level: _Optional[str] = ..., selectors: _Optional[_Iterable[str]] = ..., aliases: _Optional[_Iterable[str]] = ...) -> None: ...

class EntryState(_message.Message):
    __slots__ = ("entry_id", "spiffe_id", "parent_id", "ancestry", "obstacle", "missing", "identity", "needs_evidence")
    ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    SPIFFE_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_ID_FIELD_NUMBER: _ClassVar[int]
    ANCESTRY_FIELD_NUMBER: _ClassVar[int]
    OBSTACLE_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    NEEDS_EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    entry_id: str
    spiffe_id: str
    parent_id: str
    ancestry: _containers.RepeatedScalarFieldContainer[str]
    obstacle: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    identity: str
    needs_evidence: bool
    def __init__(self, entry_id: _Optional[str] = ..., spiffe_id: _Optional[str] = ..., parent_id: _Optional[str] = ..., ancestry: _Optional[_Iterable[str]] = ..., obstacle: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ..., identity: _Optional[str] = ..., needs_evidence: _Optional[bool] = ...) -> None: ...
